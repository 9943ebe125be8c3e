"""Train an image autoencoder: read from top to bottom, this is a whole run.

    accelerate launch --config_file accelerate_config.yaml train/train.py [--config NAME_OR_PATH] [--FIELD VALUE ...]

    settings -> processes -> checkpoint -> data, model, losses -> preflight
             -> loop { step, average, log, sample, evaluate, checkpoint }
             -> measure the latents, evaluate, write runs/NAME/model

It runs the same way under `torchrun` and as plain `python train/train.py`.
"""

import json
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from latent_ae.config import to_yaml
from latent_ae.data import Batch, SkippedImages, StreamParts
from latent_ae.errors import UserError
from latent_ae.io.atomic import write_atomically
from latent_ae.models.parts import CODEBOOK
from latent_ae.training.build import (
    build_adversary,
    build_bottleneck,
    build_draws,
    build_guards,
    build_model,
    build_objective,
    build_optimizer,
    weights_at,
)
from latent_ae.training.checkpoint.data_record import LEDGER, begin_run, checked_data
from latent_ae.training.checkpoint.files import Checkpoint, CheckpointError, write_checkpoint
from latent_ae.training.checkpoint.resume import (
    CHANGED_DATA,
    agreed_checkpoint,
    checkpoint_to_resume,
    held_run,
    on_main,
)
from latent_ae.training.checkpoint.state import TrainingState
from latent_ae.training.data import TrainingData
from latent_ae.training.defaults import settled
from latent_ae.training.describe import describe_run, log_line
from latent_ae.training.distributed import (
    describe_processes,
    gather_from_processes,
    start_accelerator,
    sum_over_processes,
)
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.logging import Logbook, open_logbook
from latent_ae.training.model_directory import why_unfinished, write_result
from latent_ae.training.noise import Draws
from latent_ae.training.objective import Objective
from latent_ae.training.preflight import preflight
from latent_ae.training.schedules import learning_rate_share_at, set_learning_rate
from latent_ae.training.settings import Invocation, RunConfig, parse_run
from latent_ae.training.signals import SIGNALS, StopRequest
from latent_ae.training.skip_guard import NonFiniteError
from latent_ae.training.step import StepResult, discriminator_step, generator_step, update_bottleneck
from latent_ae.training.validation import Heldout

RECIPES = Path(__file__).resolve().parent / "configs"


def main(argv: list[str] | None = None) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    try:
        return train(parse_run(sys.argv[1:] if argv is None else argv, RECIPES))
    except (UserError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or 'while writing the run'}", file=sys.stderr)
        return 1


def train(invocation: Invocation) -> int:
    """One run, from its settings to its model directory. Returns the exit status."""
    # -- processes and settings
    config = invocation.config
    accelerator = start_accelerator(
        mixed_precision=config.train.mixed_precision, accumulation=config.train.accumulation
    )
    try:
        with StopRequest() as stop:
            config = settled(config, precision=accelerator.mixed_precision, device_type=accelerator.device.type)
            only_preflight = invocation.preflight == "only"
            with nullcontext() if only_preflight else held_run(config.run_dir, accelerator):
                return run(config, invocation, accelerator, stop)
    finally:
        accelerator.end_training()


def run(config: RunConfig, invocation: Invocation, accelerator: Accelerator, stop: StopRequest) -> int:
    """Find where to go on, build, check, loop, finish."""
    say, only_preflight = accelerator.print, invocation.preflight == "only"
    # -- checkpoint: before anything is built, as what goes on needs no start weights
    checkpoint: Checkpoint | None = None
    if not only_preflight:
        unfinished = why_unfinished(config)
        find = partial(checkpoint_to_resume, config, invocation.resume)
        checkpoint, notes = agreed_checkpoint(find, config.output_dir, accelerator, finished=unfinished is None)
        for note in notes:
            say(note)
        if checkpoint is None and not unfinished:
            raise CheckpointError(f"{config.run_dir} is finished and has no checkpoints: give another --name")
        if checkpoint is not None and checkpoint.step == config.train.steps:
            say(unfinished or f"{config.run_dir} is finished; --name starts another run")
            if not unfinished:
                return 0

    # -- data, model, losses
    parts, fresh = config.data.open(), checkpoint is None
    record = None if only_preflight else checked_data(config, parts, checkpoint, invocation.resume, accelerator)
    autoencoder = build_model(config, parts, start=fresh)
    bottleneck = build_bottleneck(autoencoder, config, parts, start=fresh, device=accelerator.device)
    objective = build_objective(autoencoder, bottleneck, config)
    adversary = build_adversary(autoencoder, config)
    draws = build_draws(objective.model, config)
    channels = autoencoder.config["in_channels"]
    data = TrainingData(parts, config, accelerator, channels=channels, factor=draws.factor)
    heldout = Heldout(parts, config, accelerator, channels=channels)
    heldout.check()
    say(describe_run(config, parts, autoencoder))
    say(describe_processes(accelerator))

    # -- preflight: every weighted term reaches the modules it trains, and no other
    pixels = data.crops(1)
    say(preflight(objective, pixels, draws.noise([0], pixels.shape), weights_at(None, config.loss), adversary))
    if only_preflight:
        return 0

    # -- start, or go on
    training = Training(config, accelerator, stop, data, objective=objective, adversary=adversary, draws=draws)
    if checkpoint is not None:
        training.state.restore(checkpoint, accelerator)
        say(f"going on after step {checkpoint.step}")
    training.images = None if record is None else record.fingerprint()
    same_data = checkpoint is not None and invocation.resume != CHANGED_DATA
    on_main(partial(begin_run, config, parts, record, same_data=same_data), accelerator)  # type: ignore[arg-type]

    # -- loop and result
    total = None if isinstance(parts, StreamParts) else len(parts.train)
    skipped = SkippedImages(config.run_dir / LEDGER, total, config.data.max_bad_share)
    skipped.add(data.bad)
    with open_logbook(config, training.state.step, accelerator) as logbook:
        place = None if checkpoint is None else checkpoint.values["data"]
        number = loop(training, heldout, skipped, logbook, place)
        if not number:
            write_result(training.state, heldout, logbook, stop)
            number = training.stopping(skipped)
        if number:
            training.save()
            logbook.say(
                f"{signal.Signals(number).name}: saved after step {training.state.step}; the same command goes on"
            )
            return 128 + number
    return 0


def loop(training: "Training", heldout: Heldout, skipped: SkippedImages, logbook: Logbook, place: object = None) -> int:
    """All updates that are left, with what is due after each. Returns the number of a signal to stop for, or 0.

    `place` is where a stream of data goes on.
    """
    config, state, every = training.config, training.state, training.config.train
    for batches in logbook.timed(training.data.updates(state.step, place)):
        result = training.step(batches, skipped)
        step, last = state.step, state.step == every.steps
        logbook.advance(every.batch_size, loss=result.loss, psnr=result.stats["psnr"])
        if step % every.log_every_steps == 0 or last:
            logbook.log(step, log_line(step, result, config, state.guards))
        number = training.stopping(skipped)
        if step % every.checkpoint_every_steps == 0 or last or number:
            training.save()
        if number:
            return number
        if every.sample_every_steps and step % every.sample_every_steps == 0 and not last:
            heldout.draw_samples(state.averaged_autoencoder(), step, logbook)
        if every.evaluate_every_steps and step % every.evaluate_every_steps == 0 and not last:
            heldout.evaluate_during(state.averaged_autoencoder(), step, logbook, training.stop)
    return 0


class Training:
    """The objects that train, and what one update does with them."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        stop: StopRequest,
        data: TrainingData,
        *,
        objective: Objective,
        adversary: Adversary | None,
        draws: Draws,
    ) -> None:
        self.config, self.accelerator, self.draws, self.stop, self.data = config, accelerator, draws, stop, data
        self.images: object = None
        objective.to(accelerator.device).train()  # a loaded model comes in eval mode, without checkpointing
        if config.train.channels_last:
            objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no overload
        if config.train.gradient_checkpointing:
            objective.model.recompute_activations()
        optimizer = build_optimizer(objective, config.train)
        self.state = TrainingState(objective, optimizer, config.train.ema_decay, adversary, build_guards(config))
        if config.train.compile:
            objective.model.compile_blocks(one_size=not config.data.buckets)
        self.prepared = accelerator.prepare_model(objective)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        if adversary is not None:
            adversary.prepare(accelerator)
        self.saved_step = -1

    def step(self, batches: list[Batch], skipped: SkippedImages) -> StepResult:
        """One update of each side, and its share in the average. Keeps the ids of the samples of a non-finite step."""
        for batch in batches:
            skipped.add(batch.bad)
        try:
            result = self.update(batches)
        except NonFiniteError as error:
            if self.accelerator.is_main_process:
                file, step = self.config.run_dir / "nonfinite.json", self.state.step
                write_atomically(file, json.dumps({"step": step, "sample_ids": error.sample_ids}, indent=1).encode())
                if error.sample_ids:
                    print(f"step {step}: the ids of the samples are in {file}", file=sys.stderr)
            raise
        self.state.step += 1
        return result

    def update(self, batches: list[Batch]) -> StepResult:
        """The generator's step, what follows from it, and the discriminator's step on the same batch."""
        config, state, adversary = self.config, self.state, self.state.adversary
        bottleneck = state.objective.model.bottleneck
        bottleneck.at_step(state.step)
        for optimizer in [self.optimizer] if adversary is None else [self.optimizer, adversary.optimizer]:
            set_learning_rate(optimizer, learning_rate_share_at(state.step, config.train))
        weight = 0.0 if adversary is None else adversary.generator_weight()
        result = generator_step(
            self.accelerator,
            self.prepared,
            self.optimizer,
            batches,
            step=state.step,
            draws=self.draws,
            weights=weights_at(state.step, config.loss, adversarial=weight),
            guard=state.guards["generator"],
            max_grad_norm=config.train.max_grad_norm,
            adversary=adversary,
            channels_last=bool(config.train.channels_last),
        )
        if not result.updated:
            return result
        seed = self.draws.of_update(state.step)
        if CODEBOOK not in state.objective.frozen:
            result.stats.update(update_bottleneck(self.accelerator, bottleneck, result, seed=seed))
        state.average()
        if adversary is not None:
            adversary.after_generator_update(result.sums)
        if adversary is not None and result.pairs:
            other = discriminator_step(
                self.accelerator,
                adversary,
                result.pairs,
                guard=state.guards["discriminator"],
                max_grad_norm=config.train.max_grad_norm,
            )
            result.losses.update(other.losses)
            result.stats.update(other.stats, discriminator_grad_norm=other.grad_norm, adversarial_weight=weight)
        return result

    def stopping(self, skipped: SkippedImages) -> int:
        """The number of a signal that any process received, or 0. Raises UserError if too many images are bad."""
        numbers = [float(self.stop.signal == number) for number in SIGNALS]
        problem = skipped.error(self.state.step * self.config.train.batch_size)
        *received, bad = sum_over_processes([*numbers, float(problem is not None)], self.accelerator)
        if bad:
            messages = [text for text in gather_from_processes(problem, self.accelerator) if text]
            raise UserError(str(messages[0]))
        return next((int(number) for number, count in zip(SIGNALS, received, strict=True) if count), 0)

    def save(self) -> None:
        """Write a checkpoint of the present step, once."""
        if self.saved_step == self.state.step:
            return
        config, place = self.config, self.data.state()

        def write() -> None:
            now = self.state.checkpoint(self.accelerator, to_yaml(config), place, self.images)
            write_checkpoint(config.run_dir / "checkpoints", now, keep=config.train.keep_checkpoints)

        on_main(write, self.accelerator)
        self.saved_step = self.state.step


if __name__ == "__main__":
    sys.exit(main())
