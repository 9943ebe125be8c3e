"""Train a class-conditional diffusion model on latents: read from top to bottom, this is a whole run.

    accelerate launch train/train_diffusion.py --latents DIR [--FIELD VALUE ...]

    settings -> processes -> latents, their autoencoder, network -> resume
             -> loop { step, average, log, draw, checkpoint }
             -> runs/NAME/pipeline, a stock diffusers.DiTPipeline with the autoencoder inside

DIR is what train/encode_dataset.py made. It runs the same way under `torchrun` and as plain
`python train/train_diffusion.py`.
"""

import math
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from latent_ae.command_line import override, print_help, split_options
from latent_ae.config import ConfigError, flatten, to_yaml
from latent_ae.diffusion.network import build_network, build_scheduler, denoising_loss
from latent_ae.diffusion.pipeline import Pixels, assemble, card_text, draw_grid, write_pipeline
from latent_ae.diffusion.samples import Sample, Samples, updates
from latent_ae.diffusion.settings import FREE_TO_CHANGE, DiffusionConfig
from latent_ae.diffusion.source import LatentSource, open_latents
from latent_ae.diffusion.state import DenoiserState
from latent_ae.errors import UserError
from latent_ae.export import ProofFailed
from latent_ae.image import save_png
from latent_ae.training.checkpoints import write_checkpoint
from latent_ae.training.guard import NonFiniteError
from latent_ae.training.logbook import Logbook
from latent_ae.training.processes import describe_processes, start_accelerator, sum_over_processes
from latent_ae.training.resume import agreed_checkpoint, find_checkpoint, require_same
from latent_ae.training.schedules import learning_rate_share_at
from latent_ae.training.signals import SIGNALS, StopRequest

if TYPE_CHECKING:
    from diffusers import DiTPipeline

PROGRAM = "train_diffusion.py"
DESCRIPTION = (
    "Train a class-conditional diffusion model on latents. Beside the settings below: --resume auto|never|PATH "
    "(a checkpoint folder)."
)


def main(argv: list[str] | None = None) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    try:
        config, resume = parse(sys.argv[1:] if argv is None else argv)
        accelerator = start_accelerator(
            mixed_precision=config.train.mixed_precision, accumulation=config.train.accumulation
        )
        try:
            with StopRequest() as stop:
                return run(config, resume, accelerator, stop)
        finally:
            accelerator.end_training()
    except (UserError, NonFiniteError, ProofFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or 'while writing the run'}", file=sys.stderr)
        return 1


def parse(argv: list[str]) -> tuple[DiffusionConfig, str]:
    """Settings and what to resume from. Raises ConfigError with one line for anything missing, unknown or wrong."""
    options = split_options(argv)
    if options.pop("help", None) is not None:
        print_help(DiffusionConfig(), PROGRAM, DESCRIPTION)
        raise SystemExit(0)
    resume = options.pop("resume", "auto")
    if not isinstance(resume, str):
        raise ConfigError("--resume needs one value: auto, never, or the path of a checkpoint")
    if options.get("latents") is None:
        raise ConfigError(
            "--latents DIR has to be given, a folder that train/encode_dataset.py made; --help lists all settings"
        )
    return override(DiffusionConfig, {}, options), resume


def run(config: DiffusionConfig, resume: str, accelerator: Accelerator, stop: StopRequest) -> int:
    """Open, resume, loop, write the pipeline. Returns the exit status."""
    # -- latents, their autoencoder, network
    source = open_latents(Path(str(config.latents)), config.model, seed=config.seed)
    training = Training(config, accelerator, stop, source)
    say = accelerator.print
    size = sum(parameter.numel() for parameter in training.state.network.parameters()) / 1e6
    say(f"{source}; a transformer of {size:.2f} million parameters")
    say(describe_processes(accelerator))

    # -- resume
    pipeline, output_dir = config.pipeline_dir, config.output_dir
    find = partial(find_checkpoint, config, config.run_dir, resume, lambda _step: FREE_TO_CHANGE)
    checkpoint, notes = agreed_checkpoint(find, output_dir=output_dir, result=pipeline, accelerator=accelerator)
    require_same("latents", str(config.latents), source.rows.manifest.fingerprint, accelerator)
    for note in notes:
        say(note)
    if checkpoint is not None:
        training.state.restore(checkpoint, accelerator)
        say(f"going on after step {checkpoint.step}")
    if pipeline.exists():
        say(f"{config.run_dir} is finished; --name starts another run")
        return 0
    if accelerator.is_main_process:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        (config.run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
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
        number = loop(training, logbook)
        if number:
            logbook.say(
                f"{signal.Signals(number).name}: saved after step {training.state.step}; the same command goes on"
            )
            return 128 + number
        if accelerator.is_main_process:
            training.write(pipeline)
            logbook.picture(config.train.steps, "draws", pipeline / "samples.png")
    accelerator.wait_for_everyone()
    say(f"wrote {pipeline}; stock diffusers loads it and draws the same images")
    return 0


def loop(training: "Training", logbook: Logbook) -> int:
    """All updates that are left, with what is due after each. Returns the number of a signal to stop for, or 0."""
    config, state, every = training.config, training.state, training.config.train
    for batches in logbook.timed(training.updates()):
        loss, grad_norm = training.step(batches)
        step, last = state.step, state.step == every.steps
        logbook.advance(every.batch_size, loss=loss)
        if step % every.log_every_steps == 0 or last:
            rate = every.learning_rate * learning_rate_share_at(step - 1, every)
            images = step * every.batch_size
            logbook.log(step, {"images_seen": images, "loss": loss, "lr": rate, "grad_norm": grad_norm})
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


class Training:
    """The objects that train, and what one update does with them."""

    def __init__(
        self, config: DiffusionConfig, accelerator: Accelerator, stop: StopRequest, source: LatentSource
    ) -> None:
        self.config, self.accelerator, self.stop, self.source = config, accelerator, stop, source
        torch.manual_seed(config.seed)  # of the start weights alone: all else is drawn by number
        network = build_network(channels=source.channels, side=source.side, **config.network.model_dump())
        network.to(accelerator.device).train()
        rate, decay = config.train.learning_rate, config.train.weight_decay
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, fused=True)
        self.state = DenoiserState(
            network,
            optimizer,
            ema_decay=config.train.ema_decay,
            latents=source.rows.manifest.fingerprint,
            scaling_factor=source.scaling_factor,
        )
        self.scheduler = build_scheduler()
        self.prepared = accelerator.prepare_model(network)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.samples = Samples(
            source.rows,
            scaling_factor=source.scaling_factor,
            label_dropout=config.train.label_dropout,
            seed=config.seed,
        )

    def updates(self) -> Iterator[list[Sample]]:
        """The micro-batches of this process for each update that is left."""
        train = self.config.train
        return updates(
            self.samples,
            first_step=self.state.step,
            steps=train.steps,
            batch_size=train.batch_size,
            accumulation=train.accumulation,
            workers=train.workers,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def step(self, batches: list[Sample]) -> tuple[float, float]:
        """One update from one global batch; its loss and gradient norm. Raises NonFiniteError on all processes."""
        train, accelerator = self.config.train, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * learning_rate_share_at(self.state.step, train)
        total = 0.0
        for batch in batches:
            latents, noise, timesteps, labels = (each.to(accelerator.device, non_blocking=True) for each in batch)
            with accelerator.accumulate(self.prepared):
                loss = denoising_loss(
                    self.prepared, self.scheduler, latents=latents, noise=noise, timesteps=timesteps, labels=labels
                )
                accelerator.backward(loss)
            total += float(loss.detach())
        norm = accelerator.clip_grad_norm_(self.state.network.parameters(), train.max_grad_norm or math.inf)
        (total,) = sum_over_processes([total], accelerator)
        mean = total / len(batches) / accelerator.num_processes
        scaler = accelerator.scaler
        # In fp16 a gradient that overflows makes no update, as long as a lower loss scale may help.
        overflown = scaler is not None and not math.isfinite(float(norm)) and scaler.get_scale() >= 1
        if not math.isfinite(mean) or not (overflown or math.isfinite(float(norm))):
            raise NonFiniteError(
                f"the loss ({mean:.3g}) or the gradient norm ({float(norm):.3g}) of step {self.state.step + 1} is not "
                "finite; the weights are as they were before: lower train.learning_rate"
                + (", or take train.mixed_precision bf16" if scaler is not None else ""),
                [],
            )
        if overflown:
            scaler.update()  # it has unscaled, and would refuse to do so again
        else:
            self.optimizer.step()
            self.state.average()
        self.optimizer.zero_grad()
        self.state.step += 1
        return mean, float(norm)

    def stopping(self) -> int:
        """The number of a signal that any process received, or 0."""
        received = sum_over_processes([float(self.stop.signal == number) for number in SIGNALS], self.accelerator)
        return next((int(number) for number, count in zip(SIGNALS, received, strict=True) if count), 0)

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        if self.accelerator.is_main_process:
            checkpoint = self.state.checkpoint(self.accelerator, to_yaml(self.config))
            write_checkpoint(self.config.run_dir / "checkpoints", checkpoint, keep=self.config.train.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def draw(self) -> Pixels:
        """A grid of draws with the averaged weights, a row for each class."""
        return self._drawn(self._pipeline())

    def write(self, folder: Path) -> None:
        """Write the pipeline with the averaged weights."""
        pipeline, source = self._pipeline(), self.source
        card = card_text(
            name=self.config.name,
            data=source.data_name,
            autoencoder=source.autoencoder_name,
            identity=source.identity,
            steps=self.config.train.steps,
            scaling_factor=source.scaling_factor,
        )
        write_pipeline(pipeline, folder, self._drawn(pipeline), card)

    def _pipeline(self) -> "DiTPipeline":
        network = self.state.averaged_network()
        return assemble(network, self.source.autoencoder, self.source.label_names)

    def _drawn(self, pipeline: "DiTPipeline") -> Pixels:
        classes, seed = self.source.classes, self.config.seed
        return draw_grid(pipeline, classes, seed=seed, **self.config.sampling.model_dump())


if __name__ == "__main__":
    sys.exit(main())
