"""A whole run on latents, from its settings on the command line to its result.

settings -> processes -> latents, their autoencoder, network -> resume
-> loop { step, average, log, draw, checkpoint } -> the result
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from latent_ae.config import ConfigError, flatten, to_yaml
from latent_ae.config.command_line import override, print_help, split_options
from latent_ae.errors import UserError
from latent_ae.export.proof import ProofFailed
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image import save_png
from latent_ae.priors.settings import FREE_TO_CHANGE, SAMPLES, LatentRunConfig
from latent_ae.priors.source import open_latents
from latent_ae.priors.training import LatentTraining
from latent_ae.training.checkpoint.files import CheckpointError
from latent_ae.training.checkpoint.resume import (
    CHANGED_DATA,
    agreed_checkpoint,
    find_checkpoint,
    held_run,
    on_main,
    require_same,
)
from latent_ae.training.distributed import describe_processes, start_accelerator
from latent_ae.training.finished import damage_of_result
from latent_ae.training.logging import Logbook
from latent_ae.training.schedules import learning_rate_at
from latent_ae.training.signals import StopRequest
from latent_ae.training.skip_guard import NonFiniteError


def run_program(argv: list[str], training: type[LatentTraining[Any, Any]]) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    try:
        config, resume = parse(argv, training)
        accelerator = start_accelerator(
            mixed_precision=config.train.mixed_precision, accumulation=config.train.accumulation
        )
        try:
            with StopRequest() as stop, held_run(config.run_dir, accelerator):
                return _run(config, resume, accelerator, stop, training)
        finally:
            accelerator.end_training()
    except (UserError, NonFiniteError, ProofFailed) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # a program's own message
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        place = error.filename or "while writing the run"
        print(f"error: {error.strerror or error}: {place}", file=sys.stderr)  # noqa: T201
        return 1


def parse(argv: list[str], training: type[LatentTraining[Any, Any]]) -> tuple[LatentRunConfig, str]:
    """Settings and what to resume from. Raises ConfigError with one line for anything missing, unknown or wrong."""
    options, settings = split_options(argv), training.SETTINGS
    if options.pop("help", None) is not None:
        more = "Beside the settings below: --resume auto|never|PATH (a checkpoint folder)."
        print_help(settings(), training.PROGRAM, f"{training.SUMMARY} {more}")
        raise SystemExit(0)
    resume = options.pop("resume", "auto")
    if not isinstance(resume, str):
        raise ConfigError("--resume needs one value: auto, never, or the path of a checkpoint")
    if resume == CHANGED_DATA:
        raise ConfigError("--resume changed-data is of train.py: a prior goes on with the latents that it began with")
    if options.get("latents") is None:
        raise ConfigError(
            "--latents DIR has to be given, a folder that train/encode_dataset.py made; --help lists all settings"
        )
    return override(settings, {}, options), resume


def _run(
    config: LatentRunConfig,
    resume: str,
    accelerator: Accelerator,
    stop: StopRequest,
    kind: type[LatentTraining[Any, Any]],
) -> int:
    """Open, resume, loop, write the result. Returns the exit status."""
    # -- latents, their autoencoder, network
    source = open_latents(Path(str(config.latents)), config.model, seed=config.seed)
    training = kind(config, accelerator, stop, source)
    say = accelerator.print
    size = sum(parameter.numel() for parameter in training.state.network.parameters()) / 1e6
    say(f"{source}; a network of {size:.2f} million parameters")
    say(describe_processes(accelerator))

    # -- resume
    result = config.result_dir
    unfinished = _why_unfinished(config)
    find = partial(find_checkpoint, config, config.run_dir, resume, lambda _step: FREE_TO_CHANGE)
    checkpoint, notes = agreed_checkpoint(find, config.output_dir, accelerator, finished=unfinished is None)
    require_same("latents", str(config.latents), source.rows.manifest.fingerprint, accelerator)
    for note in notes:
        say(note)
    if checkpoint is not None:
        training.state.restore(checkpoint, accelerator)
        say(f"going on after step {checkpoint.step}")
    if unfinished is None:
        say(f"{config.run_dir} is finished; --name starts another run")
        return 0
    if unfinished:
        say(unfinished)
    if accelerator.is_main_process:
        write_atomically(config.run_dir / "config.yaml", to_yaml(config).encode())
    accelerator.wait_for_everyone()

    # -- loop and result
    with Logbook(
        config.run_dir,
        tracker=config.train.tracker,
        name=config.name,
        settings=flatten(config.model_dump(mode="json")),
        first_step=training.state.step,
        steps=config.train.steps,
        active=accelerator.is_main_process,
    ) as logbook:
        number = _loop(training, logbook)
        if number:
            logbook.say(
                f"{signal.Signals(number).name}: saved after step {training.state.step}; the same command goes on"
            )
            return 128 + number
        on_main(lambda: training.write(result), accelerator)
        if logbook.active:
            logbook.picture(config.train.steps, "draws", result / SAMPLES)
    accelerator.wait_for_everyone()
    say(f"wrote {result}; {training.PROMISE}")
    return 0


def _why_unfinished(config: LatentRunConfig) -> str | None:
    """None if the result is there and whole, else what to tell the user about it. Raises CheckpointError if another
    thing is in its place.
    """
    result = config.result_dir
    if not os.path.lexists(result):
        return ""
    if not (result / config.INDEX).is_file():
        raise CheckpointError(f"{result} is in the way of the result and has no {config.INDEX}: move it away")
    damage = damage_of_result(result, config.INDEX)
    return damage and f"{damage}: it is written again"


def _loop(training: LatentTraining[Any, Any], logbook: Logbook) -> int:
    """All updates that are left, with what is due after each. Returns the number of a signal to stop for, or 0."""
    config, state, every = training.config, training.state, training.config.train
    for batches in logbook.timed(training.updates()):
        means = training.step(batches)
        step, last = state.step, state.step == every.steps
        logbook.advance(every.batch_size, loss=means["loss"])
        if step % every.log_every_steps == 0 or last:
            rate = learning_rate_at(step - 1, every)
            logbook.log(step, {"images_seen": step * every.batch_size, **means, "lr": rate})
        number = training.stopping()
        if step % every.checkpoint_every_steps == 0 or last or number:
            training.save()
        if number:
            return number
        if every.sample_every_steps and step % every.sample_every_steps == 0 and not last and logbook.active:
            file = config.run_dir / "samples" / f"step-{step:08d}.png"
            file.parent.mkdir(exist_ok=True)
            save_png(file, training.draw())
            logbook.picture(step, "draws", file)
    return 0
