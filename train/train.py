"""Train an image autoencoder: how a run is built, and one whole update of its weights, from top to bottom.

    accelerate launch --config_file accelerate_config.yaml train/train.py [--config NAME_OR_PATH] [--FIELD VALUE ...]

    settings -> processes -> checkpoint -> data, model, losses -> preflight
             -> loop { update, log, checkpoint, sample, evaluate }         (latent_ae/training/engine.py)
             -> measure the latents, evaluate, write runs/NAME/model

It runs the same way under `torchrun` and as plain `python train/train.py`.
"""

if __name__ == "__main__":  # before the imports that it is for
    from latent_ae.cli.before_torch import leave_early
    from latent_ae.process import leave, own_process

    own_process()
    leave_early("train", __file__)

import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latent_ae.data import Batch, SkippedImages
from latent_ae.models.parts import CODEBOOK
from latent_ae.training.best import BestWeights
from latent_ae.training.build import (
    build_adversary,
    build_bottleneck,
    build_draws,
    build_guards,
    build_model,
    build_objective,
    build_optimizer,
    build_pixel_format,
    start_model,
    weights_at,
)
from latent_ae.training.checkpoint.data_record import begin_run, checked_data
from latent_ae.training.checkpoint.resume import CHANGED_DATA, held_run, resume_or_finish
from latent_ae.training.checkpoint.state import AutoencoderState
from latent_ae.training.data import TrainingData
from latent_ae.training.describe import LOOKED_AT, describe_levels, describe_run
from latent_ae.training.distributed import describe_processes
from latent_ae.training.engine import Training, run_program, started_processes
from latent_ae.training.gan.discriminator_side import LAST_LAYER, NOTHING_DUE, Adversary
from latent_ae.training.logging import Logbook
from latent_ae.training.model_directory import why_unfinished, write_result
from latent_ae.training.noise import Draws
from latent_ae.training.objective import Objective, Terms, Weights, weighted_sum
from latent_ae.training.preflight import preflight
from latent_ae.training.schedules import learning_rate_share_at, set_learning_rate
from latent_ae.training.settings import Invocation, RunConfig, parse_run, resolved
from latent_ae.training.signals import StopRequest
from latent_ae.training.update import Pair, Totals, UpdateResult, trained_parameters, update_bottleneck
from latent_ae.training.validation import Heldout

RECIPES = Path(__file__).resolve().parent / "configs"


def main(argv: list[str] | None = None) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    return run_program(lambda: start(parse_run(sys.argv[1:] if argv is None else argv, RECIPES)))


def start(invocation: Invocation) -> int:
    """One run, from its settings to its model directory. Returns the exit status."""
    config, only_preflight = invocation.config, invocation.preflight == "only"
    with started_processes(config.train) as (accelerator, stop):
        config = resolved(config, precision=accelerator.mixed_precision, device_type=accelerator.device.type)
        with nullcontext() if only_preflight else held_run(config.run_dir, accelerator):
            return run(config, invocation, accelerator, stop)


def run(config: RunConfig, invocation: Invocation, accelerator: Accelerator, stop: StopRequest) -> int:
    """Find where to go on, build, check, train, write the result."""
    say, only_preflight = accelerator.print, invocation.preflight == "only"
    # -- checkpoint: before anything is built, as what goes on needs no start weights
    checkpoint = None
    if not only_preflight:
        checkpoint, finished = resume_or_finish(
            config, invocation.resume, accelerator, unfinished=why_unfinished(config), over=config.ends_early
        )
        if finished:
            return 0

    # -- data, model, losses
    parts, fresh = config.data.open().for_training(), checkpoint is None
    record = None if only_preflight else checked_data(config, parts, checkpoint, invocation.resume, accelerator)
    autoencoder = build_model(config)
    pixels = build_pixel_format(config, parts, autoencoder, checkpoint)
    if fresh:
        start_model(autoencoder, config, parts, pixels)
    bottleneck = build_bottleneck(autoencoder, config, parts, pixels, start=fresh, device=accelerator.device)
    objective = build_objective(autoencoder, bottleneck, config, pixels)
    adversary = build_adversary(autoencoder, config)
    draws = build_draws(objective.model, config)
    data = TrainingData(parts, config, accelerator, pixels=pixels, factor=draws.factor)
    heldout = Heldout(parts, config, accelerator, pixels)
    forecast = heldout.check(autoencoder)
    say("\n".join(filter(None, [describe_run(config, parts, autoencoder, pixels), invocation.note, forecast])))
    say(describe_processes(accelerator))

    # -- preflight: every weighted term reaches the modules it trains, and no other
    crops = data.crops(LOOKED_AT)
    say(describe_levels(crops, pixels))
    crop = crops[:1]
    say(preflight(objective, crop, draws.noise([0], crop.shape), weights_at(None, config.loss), adversary))
    if only_preflight:
        return 0

    # -- start, or go on
    training = AutoencoderTraining(config, accelerator, stop, objective, adversary=adversary, draws=draws)
    if checkpoint is not None:
        training.state.restore(checkpoint, accelerator)
        say(f"going on after step {checkpoint.step}")
    same_data = checkpoint is not None and invocation.resume != CHANGED_DATA
    training.skipped = begin_run(config, parts, record, accelerator, same_data=same_data)
    training.skipped.add(data.bad)
    training.data, training.heldout = data, heldout
    data.images = None if record is None else record.fingerprint()
    data.start = None if checkpoint is None else checkpoint.values["data"]
    return training.run()


class AutoencoderTraining(Training[Batch]):
    """The objects that train, and what one update does with them."""

    config: RunConfig
    state: AutoencoderState
    data: TrainingData
    heldout: Heldout
    skipped: SkippedImages

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        stop: StopRequest,
        objective: Objective,
        *,
        adversary: Adversary | None,
        draws: Draws,
    ) -> None:
        objective.to(accelerator.device).train()  # a loaded model comes in eval mode, without checkpointing
        self.memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        objective.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # missing in torch's stubs
        if config.train.gradient_checkpointing:
            objective.model.recompute_activations()
        optimizer = build_optimizer(objective, config.train)
        ema, guards, best = config.train.ema_decay, build_guards(config), BestWeights.of(config.train)
        state = AutoencoderState(objective, optimizer, ema, adversary, guards=guards, best=best)
        super().__init__(config, accelerator, stop, state)
        if config.train.compile:
            objective.model.compile_blocks(one_size=not config.data.buckets)
        self.prepared = accelerator.prepare_model(objective)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        if adversary is not None:
            adversary.prepare(accelerator)
        self.draws, self.max_norm = draws, config.train.max_grad_norm or math.inf

    def update(self, batches: list[Batch]) -> UpdateResult:
        """The autoencoder's step, what follows from it, and the discriminator's step on the same batch."""
        config, state, adversary = self.config, self.state, self.state.adversary
        bottleneck = state.objective.model.bottleneck
        bottleneck.at_step(state.step)
        for optimizer in [self.optimizer] if adversary is None else [self.optimizer, adversary.optimizer]:
            set_learning_rate(optimizer, learning_rate_share_at(state.step, config.train))
        weight = 0.0 if adversary is None else adversary.generator_weight()
        weights = weights_at(state.step, config.loss, adversarial=weight)

        result = self.generator_step(batches, weights)
        if not result.updated:
            return result
        if CODEBOOK not in state.objective.frozen:
            seed = self.draws.of_update(state.step)
            result.stats.update(update_bottleneck(self.accelerator, bottleneck, result, seed=seed))
        state.average()

        if adversary is not None:
            adversary.after_generator_update(result.sums)
            if result.pairs:
                other = self.discriminator_step(adversary, result.pairs)
                result.losses.update(other.losses)
                result.stats.update(other.stats, discriminator_grad_norm=other.grad_norm, adversarial_weight=weight)
        return result

    def generator_step(self, batches: list[Batch], weights: Weights) -> UpdateResult:
        """Forward and backward through the autoencoder for each micro-batch, then one step of its optimizer.

        The discriminator's weights are detached in it.
        """
        accelerator, draws, state = self.accelerator, self.draws, self.state
        device, adversary, guard = accelerator.device, state.adversary, state.guards["generator"]
        due = NOTHING_DUE if adversary is None else adversary.due(state.step)
        totals = Totals(accelerator, len(batches))
        pairs: list[Pair] = []
        candidates: list[tuple[int, Tensor]] = []
        for batch in batches:
            pixels = batch.pixels.to(device, memory_format=self.memory_format, non_blocking=True)
            with accelerator.accumulate(self.prepared):
                terms: Terms = self.prepared(
                    pixels,
                    draws.noise(batch.numbers, pixels.shape, device),
                    capacity=weights.capacity,
                    latent_noise=draws.on_latents(batch.numbers, pixels.shape, device),
                    transform=draws.transform(state.step),
                    valid=None if batch.valid is None else batch.valid.to(device),
                )
                losses = dict(terms.losses)
                if adversary is not None and (due.generator or due.measure_adaptive_weight):
                    adversarial = adversary.generator_term(terms.reconstruction)
                    if due.measure_adaptive_weight:
                        sides = adversary.last_layer_gradients(weighted_sum(losses, weights), adversarial)
                        totals.add(LAST_LAYER, sides)
                    if due.generator:
                        losses["adversarial"] = adversarial
                loss = weighted_sum(losses, weights)
                accelerator.backward(loss)
            totals.add_loss(loss, batch.sample_ids)
            totals.add("losses", losses)
            totals.add("stats", terms.stats)
            totals.add("bottleneck", terms.sums, mean=False)
            candidates += [] if terms.candidates is None else [(batch.numbers[0], terms.candidates)]
            pairs += [(terms.target, terms.reconstruction.detach())] if due.discriminator else []

        norm = accelerator.clip_grad_norm_(trained_parameters(self.prepared), self.max_norm)
        result = totals.result(norm, guard, scaled=accelerator.scaler is not None)
        if result.updated:
            self.optimizer.step()
        else:
            totals.lower_loss_scale(accelerator.scaler)
        self.optimizer.zero_grad()
        result.pairs, result.candidates = pairs, candidates
        return result

    def discriminator_step(self, adversary: Adversary, pairs: list[Pair]) -> UpdateResult:
        """Forward and backward through the discriminator for each micro-batch, then one step of its optimizer alone.

        Reconstructions come without graph: nothing reaches the autoencoder. It has its own fp16 scaler.
        """
        optimizer, scaler, guard = adversary.optimizer, adversary.scaler, self.state.guards["discriminator"]
        totals = Totals(self.accelerator, len(pairs), side="discriminator's ")
        for number, (target, reconstruction) in enumerate(pairs):
            with adversary.synchronised(self.accelerator, last=number == len(pairs) - 1):
                terms = adversary.prepared(target, reconstruction, adversary.weights["r1"] > 0)
                loss = adversary.weighted_sum(terms.losses)
                scaler.scale(loss / len(pairs)).backward()
            totals.add_loss(loss)
            totals.add("losses", terms.losses)
            totals.add("stats", terms.stats)

        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(trained_parameters(adversary.prepared), self.max_norm)
        result = totals.result(norm, guard, scaled=scaler.is_enabled())
        if result.updated:
            scaler.step(optimizer)
            scaler.update()
            adversary.after_update(result.stats)
        else:
            totals.lower_loss_scale(scaler)
        optimizer.zero_grad()
        return result

    def updates(self) -> Iterator[list[Batch]]:
        """The micro-batches of this process for each update that is left; images that could not be used are noted."""
        for batches in self.data.updates(self.state.step):
            for batch in batches:
                self.skipped.add(batch.bad)
            yield batches

    def log_line(self, step: int, result: UpdateResult) -> dict[str, float | int | None]:
        """The terms, the weights that move, and how many updates were skipped."""
        line = super().log_line(step, result) | self.config.loss.logged_at(step - 1)
        if self.config.train.max_skips_in_a_row:
            line |= {f"skipped_{side}": guard.skipped for side, guard in self.state.guards.items()}
        return line

    def between(self, step: int, logbook: Logbook) -> bool:
        """A grid of held-out images, a validation; False if a process was told to stop meanwhile."""
        every = self.config.train
        if every.sample_every_steps and step % every.sample_every_steps == 0:
            self.heldout.draw_samples(self.state.averaged(), step, logbook)
        if every.evaluate_every_steps and step % every.evaluate_every_steps == 0:
            return self.heldout.validate(self.state, logbook, self.stop)
        return True

    def problem(self) -> str | None:
        """Too many images that cannot be used."""
        return self.skipped.error(self.state.step * self.config.train.batch_size)

    def place(self) -> dict[str, object]:
        """Where streams go on, and which images are trained on."""
        return self.data.place()

    def finish(self, logbook: Logbook) -> None:
        """Measure, evaluate, write the model directory."""
        write_result(self.state, self.heldout, logbook, self.stop)


if __name__ == "__main__":
    leave(main())
