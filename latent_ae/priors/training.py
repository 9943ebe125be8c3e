"""The objects that train on latents, and what one update does with them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor
from torch.utils.data import Dataset

from latent_ae.config import to_yaml
from latent_ae.io.image import Pixels
from latent_ae.priors.samples import updates
from latent_ae.priors.settings import LatentRunConfig
from latent_ae.priors.source import LatentSource
from latent_ae.priors.state import LatentModelState
from latent_ae.training.checkpoint.files import write_checkpoint
from latent_ae.training.checkpoint.resume import on_main
from latent_ae.training.distributed import sum_over_processes
from latent_ae.training.schedules import learning_rate_at
from latent_ae.training.signals import SIGNALS, StopRequest
from latent_ae.training.skip_guard import NonFiniteError

C = TypeVar("C", bound=LatentRunConfig)
N = TypeVar("N", bound=ModelMixin)
Batch = tuple[Tensor, ...]


class LatentTraining(ABC, Generic[C, N]):
    """Training of one network. A subclass says what is built, what is minimised, and what is drawn and written.

    Args:
        config: the settings.
        accelerator: of the process.
        stop: set by signals.
        source: the latents.
    """

    PROGRAM: ClassVar[str]
    """the file in train/"""
    SUMMARY: ClassVar[str]
    """a sentence for --help"""
    SETTINGS: ClassVar[type[LatentRunConfig]]
    SCALED: ClassVar[bool]
    """whether samples are latents times the autoencoder's scaling_factor, or raw"""
    PROMISE: ClassVar[str]
    """what is true of the result that was written, for the user"""

    def __init__(self, config: C, accelerator: Accelerator, stop: StopRequest, source: LatentSource) -> None:
        self.config, self.accelerator, self.stop, self.source = config, accelerator, stop, source
        torch.manual_seed(config.seed)  # of the start weights alone: all else is drawn by number
        network = self.build_network()
        self.samples = self.build_samples(network)
        network.to(accelerator.device).train()
        rate, decay = config.train.learning_rate, config.train.weight_decay
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, fused=True)
        self.state = LatentModelState(
            network,
            optimizer,
            ema_decay=config.train.ema_decay,
            latents=source.rows.manifest.fingerprint,
            images=source.images,
            scaling_factor=source.scaling_factor if self.SCALED else None,
        )
        self.prepared = accelerator.prepare_model(network)
        self.optimizer = accelerator.prepare_optimizer(optimizer)

    @abstractmethod
    def build_network(self) -> N:
        """The network at its start. Raises UserError for latents that it does not fit."""

    @abstractmethod
    def build_samples(self, network: N) -> Dataset[Batch]:
        """What it is shown, by the sample's number in the run."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Means over a batch on the accelerator's device: `loss`, which is minimised, and what is logged beside it."""

    @abstractmethod
    def draw(self) -> Pixels:
        """A grid of images with the averaged weights."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the result with the averaged weights, a samples.png in it. Raises ProofFailed."""

    def updates(self) -> Iterator[list[Batch]]:
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

    def step(self, batches: list[Batch]) -> dict[str, float]:
        """One update from one global batch; what `loss` gives of all of it, and the gradient norm.

        Raises NonFiniteError on all processes.
        """
        train, accelerator = self.config.train, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.state.step, train)
        totals: dict[str, float] = {}
        for batch in batches:
            there = tuple(each.to(accelerator.device, non_blocking=True) for each in batch)
            with accelerator.accumulate(self.prepared):
                terms = self.loss(there)
                accelerator.backward(terms["loss"])
            for name, term in terms.items():
                totals[name] = totals.get(name, 0.0) + float(term.detach())
        norm = float(accelerator.clip_grad_norm_(self.state.network.parameters(), train.max_grad_norm or math.inf))
        sums = sum_over_processes(list(totals.values()), accelerator)
        parts = len(batches) * accelerator.num_processes
        means = {name: total / parts for name, total in zip(totals, sums, strict=True)}
        self._update(means["loss"], norm)
        return {**means, "grad_norm": norm}

    def _update(self, loss: float, norm: float) -> None:
        scaler = self.accelerator.scaler
        # In fp16 a gradient that overflows makes no update, as long as a lower loss scale may help.
        overflown = scaler is not None and not math.isfinite(norm) and scaler.get_scale() >= 1
        if not math.isfinite(loss) or not (overflown or math.isfinite(norm)):
            raise NonFiniteError(
                f"the loss ({loss:.3g}) or the gradient norm ({norm:.3g}) of step {self.state.step + 1} is not "
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

    def stopping(self) -> int:
        """The number of a signal that any process received, or 0."""
        received = sum_over_processes([float(self.stop.signal == number) for number in SIGNALS], self.accelerator)
        return next((int(number) for number, count in zip(SIGNALS, received, strict=True) if count), 0)

    def save(self) -> None:
        """Write a checkpoint of the present step."""

        def write() -> None:
            checkpoint = self.state.checkpoint(self.accelerator, to_yaml(self.config))
            write_checkpoint(self.config.run_dir / "checkpoints", checkpoint, keep=self.config.train.keep_checkpoints)

        on_main(write, self.accelerator)
