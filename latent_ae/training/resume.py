"""Which checkpoint a run goes on from, and whether it may."""

from pathlib import Path

import yaml

from latent_ae.config import ConfigError, RunConfig, differences, validate
from latent_ae.training.checkpoints import Checkpoint, CheckpointError, list_checkpoints, newest_whole, read_checkpoint

FREE_TO_CHANGE = (
    "name",
    "output_dir",
    "data.workers",
    "data.max_bad_share",
    "train.accumulation",
    "train.channels_last",
    "train.log_every_steps",
    "train.sample_every_steps",
    "train.evaluate_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.tracker",
    "evaluation.",
)
"""settings (or sections) that do not change which model is trained, so that a resumed run may differ in them"""


def checkpoint_to_resume(config: RunConfig, resume: str) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to start from, and what to tell the user about damaged ones.

    Args:
        config: settings of this start.
        resume: "auto" takes the run's newest checkpoint that verifies; "never" demands a fresh run directory; anything
            else is the path of a checkpoint.

    Raises CheckpointError if there is nothing sound to resume where there should be, or if the settings disagree.
    """
    folder = config.run_dir / "checkpoints"
    if resume == "never":
        if list_checkpoints(folder):
            raise CheckpointError(
                f"--resume never, but {config.run_dir} already holds checkpoints: give another --name or remove it"
            )
        return None, []
    if resume == "auto":
        path, notes = newest_whole(folder)
        if path is None:
            if notes:
                raise CheckpointError(
                    f"no checkpoint in {folder} is whole: {notes[0]}; remove {config.run_dir} to start again"
                )
            return None, []
    else:
        path, notes = Path(resume), []
    checkpoint = read_checkpoint(path)
    later = [other for other in list_checkpoints(folder) if int(other.name.removeprefix("step-")) > checkpoint.step]
    if resume != "auto" and later:
        raise CheckpointError(
            f"{folder} holds later checkpoints than {path} (up to {later[-1].name}): "
            "move them away or give another --name"
        )
    _check_settings(checkpoint, config, path)
    return checkpoint, notes


def _check_settings(checkpoint: Checkpoint, config: RunConfig, path: Path) -> None:
    try:
        saved = validate(RunConfig, yaml.safe_load(checkpoint.config_yaml))
    except (ConfigError, yaml.YAMLError) as error:
        raise CheckpointError(f"the settings in {path} cannot be read by this version: {error}") from None
    free: tuple[str, ...] = FREE_TO_CHANGE
    if config.train.schedule == "constant" and config.train.steps >= checkpoint.step:
        free = (*free, "train.steps")
    changed = [line for line in differences(saved, config) if not line.startswith(free)]
    if changed:
        raise CheckpointError(
            f"the settings disagree with those of {path} (there -> here): {'; '.join(changed)}. "
            "Give the old settings, or another --name for a new run"
        )
