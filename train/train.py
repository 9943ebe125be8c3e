"""Train an image autoencoder: read from top to bottom, this is a whole run.

    accelerate launch --config_file accelerate_config.yaml train/train.py [--config NAME_OR_PATH] [--FIELD VALUE ...]

    settings -> processes -> data, model, losses -> preflight -> resume
             -> loop { step, average, log, sample, evaluate, checkpoint }
             -> measure the latents, evaluate, write runs/NAME/model

It runs the same way under `torchrun` and as plain `python train/train.py`.
"""

import json
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator

from latent_ae.command_line import Invocation, parse_run
from latent_ae.config import RunConfig, flatten, to_yaml
from latent_ae.data import Batch, SkippedImages, SourceParts, TrainingSamples, open_source, training_loader
from latent_ae.errors import UserError
from latent_ae.models import latent_shape
from latent_ae.randomness import sample_noise
from latent_ae.training.build import (
    build_model,
    build_objective,
    build_optimizer,
    build_samples,
    final_weights,
    settled,
    weights_at,
)
from latent_ae.training.checkpoints import write_checkpoint
from latent_ae.training.heldout import Heldout
from latent_ae.training.logbook import Logbook
from latent_ae.training.objective import Objective
from latent_ae.training.preflight import preflight
from latent_ae.training.processes import (
    describe_processes,
    gather_from_processes,
    start_accelerator,
    sum_over_processes,
)
from latent_ae.training.result import write_result
from latent_ae.training.resume import checkpoint_to_resume
from latent_ae.training.schedules import beta_conventions, learning_rate_at
from latent_ae.training.signals import SIGNALS, StopRequest
from latent_ae.training.state import TrainingState
from latent_ae.training.step import NonFiniteError, StepResult, train_step

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
            return run(config, invocation, accelerator, stop)
    finally:
        accelerator.end_training()


def run(config: RunConfig, invocation: Invocation, accelerator: Accelerator, stop: StopRequest) -> int:
    """Build, check, resume, loop, finish."""
    # -- data, model, losses
    parts = open_source(config.data)
    autoencoder = build_model(config, parts)
    objective = build_objective(autoencoder, config)
    channels = autoencoder.config["in_channels"]
    samples = build_samples(parts, config.data, seed=config.seed, channels=channels)
    heldout = Heldout(parts, config, accelerator, channels=channels)
    shape = latent_shape(autoencoder, config.data.resolution)
    say = accelerator.print
    say(describe(config, parts, objective, shape))
    say(describe_processes(accelerator))

    # -- preflight: every weighted term reaches the modules it trains, and no other
    noise = sample_noise(config.seed, 0, 1, shape)
    say(preflight(objective, samples[0].pixels[None], noise, final_weights(config.loss)))
    if invocation.preflight == "only":
        return 0

    # -- resume
    checkpoint, notes = checkpoint_to_resume(config, invocation.resume)
    for note in notes:
        say(note)
    finished = (config.run_dir / "model" / "config.json").is_file()
    if finished and checkpoint is not None and checkpoint.step == config.train.steps:
        say(f"{config.run_dir} is finished; --name starts another run")
        return 0
    training = Training(config, accelerator, objective, shape, stop)
    if checkpoint is not None:
        training.state.restore(checkpoint, accelerator)
        say(f"going on after step {checkpoint.step}")
    if accelerator.is_main_process:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        (config.run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    accelerator.wait_for_everyone()

    # -- loop and result
    skipped = SkippedImages(config.run_dir / "skipped.jsonl", len(parts.train), config.data.max_bad_share)
    with open_logbook(config, training.state.step, accelerator) as logbook:
        number = loop(training, samples, heldout, skipped, logbook)
        if not number:
            write_result(training.state.averaged_autoencoder(), heldout, logbook, stop, training.state.step)
            number = training.stopping(skipped)
        if number:
            training.save()
            logbook.say(
                f"{signal.Signals(number).name}: saved after step {training.state.step}; the same command goes on"
            )
            return 128 + number
    return 0


def loop(
    training: "Training", samples: TrainingSamples, heldout: Heldout, skipped: SkippedImages, logbook: Logbook
) -> int:
    """All updates that are left, with what is due after each. Returns the number of a signal to stop for, or 0."""
    config, state, every = training.config, training.state, training.config.train
    for batches in micro_batches(samples, config, training.accelerator, state.step):
        result = training.step(batches, skipped)
        step, last = state.step, state.step == every.steps
        logbook.advance(every.batch_size, loss=result.loss, psnr=result.stats["psnr"])
        if step % every.log_every_steps == 0 or last:
            logbook.log(step, log_line(step, result, config))
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
        objective: Objective,
        shape: tuple[int, int, int],
        stop: StopRequest,
    ) -> None:
        self.config, self.accelerator, self.shape, self.stop = config, accelerator, shape, stop
        objective.to(accelerator.device).train()  # a loaded model comes in eval mode, without checkpointing
        if config.train.channels_last:
            objective.to(memory_format=torch.channels_last)
        if config.train.gradient_checkpointing:
            objective.model.autoencoder.enable_gradient_checkpointing()
        optimizer = build_optimizer(objective, config.train)
        self.state = TrainingState(objective, optimizer, config.train.ema_decay)
        if config.train.compile:
            objective.model.compile()
        self.prepared = accelerator.prepare_model(objective)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.saved_step = -1

    def step(self, batches: list[Batch], skipped: SkippedImages) -> StepResult:
        """One update, and its share in the average. Keeps the ids of the samples of a non-finite step."""
        for batch in batches:
            skipped.add(batch.bad)
        config, step = self.config, self.state.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config.train)
        try:
            result = train_step(
                self.accelerator,
                self.prepared,
                self.optimizer,
                batches,
                seed=config.seed,
                latent_shape=self.shape,
                weights=weights_at(step, config.loss),
                max_grad_norm=config.train.max_grad_norm,
                channels_last=bool(config.train.channels_last),
            )
        except NonFiniteError as error:
            if self.accelerator.is_main_process:
                file = config.run_dir / "nonfinite.json"
                file.write_text(json.dumps({"step": step, "sample_ids": error.sample_ids}, indent=1), encoding="utf-8")
                print(f"step {step}: the ids of the samples are in {file}", file=sys.stderr)
            raise
        if result.updated:
            self.state.average()
        self.state.step = step + 1
        return result

    def stopping(self, skipped: SkippedImages) -> int:
        """The number of a signal that any process received, or 0. Raises UserError if too many images are bad."""
        numbers = [float(self.stop.signal == number) for number in SIGNALS]
        *received, bad = sum_over_processes([*numbers, float(skipped.error() is not None)], self.accelerator)
        if bad:
            messages = [text for text in gather_from_processes(skipped.error(), self.accelerator) if text]
            raise UserError(str(messages[0]))
        return next((int(number) for number, count in zip(SIGNALS, received, strict=True) if count), 0)

    def save(self) -> None:
        """Write a checkpoint of the present step, once."""
        if self.saved_step == self.state.step:
            return
        if self.accelerator.is_main_process:
            checkpoint = self.state.checkpoint(self.accelerator, to_yaml(self.config))
            write_checkpoint(self.config.run_dir / "checkpoints", checkpoint, keep=self.config.train.keep_checkpoints)
        self.saved_step = self.state.step
        self.accelerator.wait_for_everyone()


def micro_batches(
    samples: TrainingSamples, config: RunConfig, accelerator: Accelerator, first_step: int
) -> Iterator[list[Batch]]:
    """This process's micro-batches of each update, from `first_step` to the last."""
    loader = training_loader(
        samples,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        first_step=first_step,
        steps=config.train.steps,
        workers=config.data.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    batches = iter(loader)
    while micro := list(islice(batches, config.train.accumulation)):
        yield micro


def log_line(step: int, result: StepResult, config: RunConfig) -> dict[str, float | int | None]:
    """What metrics.jsonl says about a step: every term as it was summed, with its weight where that moves."""
    return {
        "images_seen": step * config.train.batch_size,
        "loss": result.loss,
        **result.losses,
        **result.stats,
        "beta": weights_at(step - 1, config.loss).beta,
        "lr": learning_rate_at(step - 1, config.train),
        # fp16: a scaled gradient overflowed and the update was skipped
        "grad_norm": result.grad_norm if result.updated else None,
    }


def open_logbook(config: RunConfig, first_step: int, accelerator: Accelerator) -> Logbook:
    """The run's logbook, going on after `first_step`."""
    return Logbook(
        config.run_dir,
        tracker=config.train.tracker,
        name=config.name,
        settings=flatten(config.model_dump(mode="json")),
        first_step=first_step,
        steps=config.train.steps,
        active=accelerator.is_main_process,
    )


def describe(config: RunConfig, parts: SourceParts, objective: Objective, shape: tuple[int, int, int]) -> str:
    """The run in three lines."""
    autoencoder, side = objective.model.autoencoder, config.data.resolution
    values = autoencoder.config["in_channels"] * side * side
    return (
        f"{config.name}: {sum(p.numel() for p in autoencoder.parameters()):,} parameters, "
        f"{autoencoder.config['in_channels']}x{side}x{side} -> {'x'.join(map(str, shape))} latents\n"
        f"data: {config.data.source}, {len(parts.train):,} training and {len(parts.heldout):,} held-out images\n"
        f"KL: {beta_conventions(config.loss.beta, values, shape[0] * shape[1] * shape[2])}"
    )


if __name__ == "__main__":
    sys.exit(main())
