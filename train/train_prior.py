"""Train a prior on latents: how a run is built, and one whole update of its weights, from top to bottom.

    accelerate launch train/train_prior.py --prior.kind hierarchy|diffusion|tokens --latents DIR [--FIELD VALUE ...]

    settings -> processes -> checkpoint -> latents, their autoencoder, network
             -> loop { update, log, checkpoint, draw }            (latent_ae/training/engine.py)
             -> write runs/NAME/prior or pipeline

DIR is what train/encode_dataset.py made; what a kind of prior is, its file in latent_ae/priors/ says. It runs the same
way under `torchrun` and as plain `python train/train_prior.py`.
"""

if __name__ == "__main__":  # before the imports that it is for
    from latent_ae.cli.before_torch import leave_early
    from latent_ae.process import leave, own_process

    own_process()
    leave_early("train-prior", __file__)

import math
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import default_collate

from latent_ae.config import to_yaml
from latent_ae.data import training_loader
from latent_ae.export.proof import ProofFailed
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image import save_png
from latent_ae.priors.prior import SAMPLES, Batch, Prior
from latent_ae.priors.settings import PriorRunConfig, parse_prior_run
from latent_ae.priors.source import LatentSource, open_latents
from latent_ae.priors.state import PriorState
from latent_ae.training.checkpoint.files import CheckpointError
from latent_ae.training.checkpoint.resume import held_run, on_main, require_same, resume_or_finish
from latent_ae.training.distributed import describe_processes
from latent_ae.training.engine import Training, run_program, started_processes
from latent_ae.training.finished import damage_of_result
from latent_ae.training.logging import Logbook
from latent_ae.training.schedules import learning_rate_share_at, set_learning_rate
from latent_ae.training.signals import StopRequest
from latent_ae.training.update import GradientGuard, Totals, UpdateResult, trained_parameters


def main(argv: list[str] | None = None) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    return run_program(lambda: start(*parse_prior_run(sys.argv[1:] if argv is None else argv)), ProofFailed)


def start(config: PriorRunConfig, resume: str, note: str) -> int:
    """One run, from its settings to its result. Returns the exit status."""
    with started_processes(config.train) as (accelerator, stop), held_run(config.run_dir, accelerator):
        # -- checkpoint
        checkpoint, finished = resume_or_finish(config, resume, accelerator, unfinished=why_unfinished(config))
        if finished:
            return 0

        # -- latents, their autoencoder, network
        source = open_latents(Path(str(config.latents)), config.model, seed=config.seed, codes=config.prior.CODES)
        require_same("latents", str(config.latents), source.rows.manifest.fingerprint, accelerator)
        torch.manual_seed(config.seed)  # of the start weights alone: all else is drawn by number
        prior = config.prior.build(source, seed=config.seed)
        size = sum(parameter.numel() for parameter in prior.network.parameters()) / 1e6
        accelerator.print(f"{source}; a network of {size:.2f} million parameters" + (note and f"\n{note}"))
        accelerator.print(describe_processes(accelerator))

        # -- start, or go on
        training = PriorTraining(config, accelerator, stop, source, prior)
        if checkpoint is not None:
            training.state.restore(checkpoint, accelerator)
            accelerator.print(f"going on after step {checkpoint.step}")
        on_main(lambda: write_atomically(config.run_dir / "config.yaml", to_yaml(config).encode()), accelerator)
        return training.run()


def why_unfinished(config: PriorRunConfig) -> str | None:
    """What a run that has made its last update lacks, for the user; None if it is finished.

    Raises CheckpointError if another thing is in the place of the result.
    """
    result, index = config.result_dir, config.prior.INDEX
    if not os.path.lexists(result):
        return f"{config.run_dir} has no {result.name} yet"
    if not (result / index).is_file():
        raise CheckpointError(f"{result} is in the way of the result and has no {index}: move it away")
    damage = damage_of_result(result, index)
    return damage and f"{damage}: it is written again"


class PriorTraining(Training[Batch]):
    """The objects that train, and what one update does with them."""

    config: PriorRunConfig
    state: PriorState

    def __init__(
        self,
        config: PriorRunConfig,
        accelerator: Accelerator,
        stop: StopRequest,
        source: LatentSource,
        prior: Prior[Any],
    ) -> None:
        prior.network.to(accelerator.device).train()
        rate, decay = config.train.learning_rate, config.train.weight_decay
        groups = [{"params": list(prior.network.parameters()), "peak": rate}]
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)
        state = PriorState(
            prior.network,
            optimizer,
            ema_decay=config.train.ema_decay,
            latents=source.rows.manifest.fingerprint,
            images=source.images,
            scaling_factor=source.scaling_factor if config.prior.SCALED else None,
            untrained=prior.untrained,
        )
        super().__init__(config, accelerator, stop, state)
        self.prior, self.guard = prior, GradientGuard()
        self.prepared = accelerator.prepare_model(prior.network)
        self.optimizer = accelerator.prepare_optimizer(optimizer)

    def update(self, batches: list[Batch]) -> UpdateResult:
        """Forward and backward for each micro-batch, then one step of the optimizer, and its share in the average."""
        accelerator, step = self.accelerator, self.state.step
        set_learning_rate(self.optimizer, learning_rate_share_at(step, self.config.train))
        totals = Totals(accelerator, len(batches))
        for batch in batches:
            there = tuple(each.to(accelerator.device, non_blocking=True) for each in batch)
            with accelerator.accumulate(self.prepared):
                terms = self.prior.loss(self.prepared, there, step)
                loss = terms.pop("loss")
                accelerator.backward(loss)
            totals.add_loss(loss)
            totals.add("stats", terms)

        limit = self.config.train.max_grad_norm or math.inf
        norm = accelerator.clip_grad_norm_(trained_parameters(self.prepared), limit)
        result = totals.result(norm, self.guard, scaled=accelerator.scaler is not None)
        if result.updated:
            self.optimizer.step()
            self.state.average()
        else:
            totals.lower_loss_scale(accelerator.scaler)
        self.optimizer.zero_grad()
        return result

    def updates(self) -> Iterator[list[Batch]]:
        """The micro-batches of this process for each update that is left."""
        train = self.config.train
        batches = iter(
            training_loader(
                self.prior.samples,
                collate=default_collate,
                batch_size=train.batch_size,
                accumulation=train.accumulation,
                rank=self.accelerator.process_index,
                world_size=self.accelerator.num_processes,
                first_step=self.state.step,
                steps=train.steps,
                workers=train.workers,
                pin_memory=self.accelerator.device.type == "cuda",
            )
        )
        while micro := list(islice(batches, train.accumulation)):
            yield micro

    def between(self, step: int, logbook: Logbook) -> bool:
        """A grid of draws with the averaged weights."""
        every = self.config.train.sample_every_steps
        if every and step % every == 0 and logbook.active:
            file = self.config.run_dir / "samples" / f"step-{step:08d}.png"
            file.parent.mkdir(exist_ok=True)
            save_png(file, self.prior.draw(self.state.averaged()))
            logbook.picture(step, "draws", file)
        return True

    def finish(self, logbook: Logbook) -> None:
        """Write the result with the averaged weights."""
        config, folder = self.config, self.config.result_dir

        def write() -> None:
            self.prior.write(self.state.averaged(), folder, name=config.name, steps=config.train.steps)
            logbook.picture(config.train.steps, "draws", folder / SAMPLES)
            logbook.say(f"wrote {folder}; {config.prior.PROMISE}")

        on_main(write, self.accelerator)


if __name__ == "__main__":
    leave(main())
