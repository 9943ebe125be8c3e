"""The objects that train, small, for 1x16x16 images: with a codebook, and with a discriminator."""

from typing import Any

import torch
from accelerate import Accelerator

from latent_ae.config import AdversarialConfig, ModelConfig
from latent_ae.data import Batch
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.parts import freeze_all_but
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.training.build import build_adversary
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.noise import Draws
from latent_ae.training.objective import Objective, Weights
from latent_ae.training.settings import RunConfig
from latent_ae.training.signals import StopRequest
from latent_ae.training.update import GradientGuard, UpdateResult
from tests.models.bottlenecks.tiny import QUANTIZING
from train.train import AutoencoderTraining

CODES = 12
PIXELS = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
WEIGHTS = Weights({"kl": 1e-6, "commitment": 0.25, "codebook": 1.0, "entropy": 0.1, "adversarial": 0.5})


def make_coded(kind: str, trained: tuple[str, ...] | None = None, **options: Any) -> Objective:
    """A real objective with a codebook on the tiny preset, 2x8x8 latents; `options` are the bottleneck's."""
    settings = {"levels": (4, 3)} if kind == "fsq" else {"codebook_size": CODES}
    autoencoder = build_autoencoder(
        ModelConfig(preset="tiny"), BOTTLENECKS[kind].model_validate(settings), seed=0, resolution=16
    )
    with torch.no_grad():  # the stock start lies within 1 / K of the origin: all vectors would have one code
        autoencoder.quantize.embedding.weight.mul_(8.0)
    levels = {"levels": settings["levels"]} if kind == "fsq" else {}
    bottleneck = QUANTIZING[kind](autoencoder.quantize.embedding, **levels, **options)
    frozen = frozenset() if trained is None else freeze_all_but(autoencoder, trained)
    return Objective(TrainableAutoencoder(autoencoder, bottleneck), RECONSTRUCTION["l2"](), None, frozen)


def make_adversary(objective: Objective, resolution: int = 16, **settings: Any) -> Adversary:
    """A small discriminator, by default a hinge game from the first update with everything on."""
    size = {} if "init_from" in settings else {"layers": 1, "width": 4}
    everything = {"loss": "hinge", "lecam_weight": 0.1, "r1_weight": 2.0, **size, **settings}
    config = RunConfig.model_validate(
        {
            "adversarial": AdversarialConfig.model_validate(everything),
            "data": {"resolution": resolution},
            "train": {"learning_rate": 1e-3},
        }
    )
    adversary = build_adversary(objective.model.autoencoder, config)
    assert adversary is not None
    return adversary


def batches_of(accumulation: int, step: int = 0) -> list[Batch]:
    """PIXELS as the micro-batches of an update."""
    size = len(PIXELS) // accumulation
    first = step * len(PIXELS)
    return [
        Batch(PIXELS[at : at + size], list(range(first + at, first + at + size)), ["x"] * size, [])
        for at in range(0, len(PIXELS), size)
    ]


class Update:
    """One process that makes updates of a generator and its adversary: train/train.py's own steps."""

    def __init__(
        self,
        objective: Objective,
        adversary: Adversary | None = None,
        accumulation: int = 1,
        max_grad_norm: float | None = None,
    ) -> None:
        self.accelerator = Accelerator(gradient_accumulation_steps=accumulation)
        self.objective, self.adversary, self.accumulation = objective, adversary, accumulation
        bottleneck = objective.model.bottleneck
        self.draws = Draws(seed=0, latent_channels=2, factor=2, noise_shape=bottleneck.noise_shape)
        train = {"learning_rate": 1e-3, "max_grad_norm": max_grad_norm}
        config = RunConfig.model_validate({"train": train})
        self.training = AutoencoderTraining(
            config, self.accelerator, StopRequest(), objective, adversary=adversary, draws=self.draws
        )
        self.optimizer = self.training.state.optimizer

    def generator(
        self,
        step: int = 0,
        weights: Weights = WEIGHTS,
        guard: GradientGuard | None = None,
        batches: list[Batch] | None = None,
    ) -> UpdateResult:
        self.training.state.step = step
        self.training.state.guards["generator"] = guard or GradientGuard()
        return self.training.generator_step(batches or batches_of(self.accumulation, step), weights)

    def discriminator(self, result: UpdateResult, guard: GradientGuard | None = None) -> UpdateResult:
        assert self.adversary is not None
        self.training.state.guards["discriminator"] = guard or GradientGuard()
        return self.training.discriminator_step(self.adversary, result.pairs)
