"""Which checkpoint a run goes on from, and whether it may."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import yaml
from accelerate import Accelerator

from latent_ae.config import ConfigError, RunSettings, Section, differences, validate
from latent_ae.errors import attempted
from latent_ae.io.atomic import remove_partials
from latent_ae.io.folder_lock import only_run
from latent_ae.training.checkpoint.files import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    newest_whole,
    read_checkpoint,
    step_of,
)
from latent_ae.training.distributed import gather_from_processes

CHANGED_DATA = "changed-data"
"""for --resume: go on with other images than before"""
T = TypeVar("T")
Found = tuple[Checkpoint | None, list[str]]
"""where to go on, and what to tell the user about damaged checkpoints"""


@contextmanager
def held_run(run_dir: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold a run's folder, in the main process for all, and remove what a killed run had half written.

    Raises CheckpointError on every process if another run holds it, or if it cannot be made.
    """
    with ExitStack() as held:

        def hold() -> None:
            if warning := held.enter_context(only_run(run_dir, instead="another --name")):
                accelerator.print(f"warning: {warning}")
            for folder in (run_dir, run_dir / "checkpoints", run_dir / "samples"):
                remove_partials(folder)

        on_main(hold, accelerator)
        yield


def on_main(work: Callable[[], T], accelerator: Accelerator) -> T | None:
    """What `work` gives on the main process, and None on the others, which wait for it. Raises as `on_all`."""
    return on_all(work if accelerator.is_main_process else lambda: None, accelerator)


def on_all(work: Callable[[], T], accelerator: Accelerator) -> T:
    """What `work` gives to this process. What goes wrong on any is raised on all, so that none waits for another.

    Raises CheckpointError.
    """
    done, problem = attempted(work)
    if problems := [text for text in gather_from_processes(problem, accelerator) if text]:
        raise CheckpointError(problems[0])
    return done[0]


def agreed_checkpoint(find: Callable[[], Found], output_dir: str, accelerator: Accelerator, *, finished: bool) -> Found:
    """What `find` gives, the same on every process; what any of them finds wrong is raised on all.

    Machines that each have an `output_dir` of their own would otherwise mix the weights of several steps, or wait for
    one that sees a `finished` run.
    """
    found = on_all(find, accelerator)
    place = "no checkpoint" if found[0] is None else f"step {found[0].step}"
    require_same("output_dir", output_dir, place + ", finished" * finished, accelerator)
    return found


def require_same(setting: str, folder: str, seen: str, accelerator: Accelerator) -> None:
    """Raise CheckpointError on every process unless all have `seen` the same in the folder that a setting names."""
    everywhere = gather_from_processes(seen, accelerator)
    if len(set(everywhere)) > 1:
        by_process = "; ".join(f"process {rank}: {text}" for rank, text in enumerate(everywhere))
        raise CheckpointError(
            f"the processes see different things in {setting} {folder} ({by_process}): it must be one folder that all "
            "machines share"
        )


def resume_or_finish(
    config: RunSettings,
    resume: str,
    accelerator: Accelerator,
    *,
    unfinished: str | None,
    over: Callable[[Mapping[str, object]], bool] = lambda _: False,
) -> tuple[Checkpoint | None, bool]:
    """The checkpoint to go on from (None: start anew), and whether the run is finished; says so.

    Args:
        config: settings of this start. Those that are `free_to_change` may be others than before, and the number of
            steps may have grown where the learning rate does not depend on it.
        resume: "auto" takes the run's newest checkpoint that verifies, and so does CHANGED_DATA; "never" demands a
            fresh run directory; anything else is the path of a checkpoint.
        accelerator: of the process.
        unfinished: what the result lacks of a run that has made its last update; None if it is there and whole.
        over: whether a checkpoint with these values is the run's last, though updates are left.

    Raises CheckpointError if there is nothing sound to resume where there should be, or if the settings disagree.
    """
    find = partial(_find_checkpoint, config, resume)
    checkpoint, notes = agreed_checkpoint(find, config.output_dir, accelerator, finished=unfinished is None)
    for note in notes:
        accelerator.print(note)
    if checkpoint is None and unfinished is None:
        raise CheckpointError(f"{config.run_dir} is finished and has no checkpoints: give another --name")
    if checkpoint is None or not (checkpoint.step >= config.train.steps or over(checkpoint.values)):
        return checkpoint, False
    accelerator.print(unfinished or f"{config.run_dir} is finished; --name starts another run")
    return checkpoint, unfinished is None


def _find_checkpoint(config: RunSettings, resume: str) -> Found:
    run_dir, free = config.run_dir, config.free_to_change
    folder = run_dir / "checkpoints"
    if resume == "never":
        if list_checkpoints(folder):
            raise CheckpointError(
                f"--resume never, but {run_dir} already holds checkpoints: give another --name or remove it"
            )
        return None, []
    if resume in ("auto", CHANGED_DATA):
        path, notes = newest_whole(folder)
        if path is None:
            if notes:
                raise CheckpointError(
                    f"no checkpoint in {folder} is whole: {notes[0]}; remove {run_dir} to start again"
                )
            return None, []
    else:
        path, notes = Path(resume), []
    checkpoint = read_checkpoint(path)
    later = [other for other in list_checkpoints(folder) if (step_of(other) or 0) > checkpoint.step]
    if resume not in ("auto", CHANGED_DATA) and later:
        raise CheckpointError(
            f"{folder} holds later checkpoints than {path} (up to {later[-1].name}): "
            "move them away or give another --name"
        )
    if config.train.schedule == "constant" and config.train.steps >= checkpoint.step:
        free = (*free, "train.steps")
    _check_settings(checkpoint, config, path, free)
    return checkpoint, notes


def _check_settings(checkpoint: Checkpoint, config: RunSettings, path: Path, free: tuple[str, ...]) -> None:
    assert isinstance(config, Section)
    try:
        saved = validate(type(config), yaml.safe_load(checkpoint.config_yaml))
    except (ConfigError, yaml.YAMLError) as error:
        raise CheckpointError(f"the settings in {path} cannot be read by this version: {error}") from None
    changed = [line for line in differences(saved, config) if not line.startswith(free)]
    if changed:
        raise CheckpointError(
            f"the settings disagree with those of {path} (there -> here): {'; '.join(changed)}. "
            "Give the old settings, or another --name for a new run"
        )
