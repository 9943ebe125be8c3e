"""The objects that train, small, for 1x16x16 images: with a codebook, and with a discriminator."""

from typing import Any

import torch
from accelerate import Accelerator

from latent_ae.config import AdversarialConfig, ModelConfig, TrainConfig
from latent_ae.data import Batch
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.parts import freeze_all_but
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.training.build import build_adversary, build_optimizer
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.noise import Draws
from latent_ae.training.objective import Objective, Weights
from latent_ae.training.settings import RunConfig
from latent_ae.training.skip_guard import GradientGuard
from latent_ae.training.step import StepResult, discriminator_step, generator_step
from tests.models.bottlenecks.tiny import QUANTIZING

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
    """One process that makes updates of a generator and its adversary as train/train.py does."""

    def __init__(self, objective: Objective, adversary: Adversary | None, accumulation: int = 1) -> None:
        self.accelerator = Accelerator(gradient_accumulation_steps=accumulation)
        self.objective, self.adversary, self.accumulation = objective, adversary, accumulation
        self.optimizer = build_optimizer(objective, TrainConfig(learning_rate=1e-3))
        bottleneck = objective.model.bottleneck
        self.draws = Draws(seed=0, latent_channels=2, factor=2, noise_shape=bottleneck.noise_shape)
        self.prepared = self.accelerator.prepare_model(objective)
        self._optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        if adversary is not None:
            adversary.prepare(self.accelerator)

    def generator(self, step: int = 0, weights: Weights = WEIGHTS, guard: GradientGuard | None = None) -> StepResult:
        return generator_step(
            self.accelerator,
            self.prepared,
            self._optimizer,
            batches_of(self.accumulation, step),
            step=step,
            draws=self.draws,
            weights=weights,
            guard=guard or GradientGuard(),
            max_grad_norm=None,
            adversary=self.adversary,
        )

    def discriminator(self, result: StepResult, guard: GradientGuard | None = None) -> StepResult:
        assert self.adversary is not None
        return discriminator_step(
            self.accelerator, self.adversary, result.pairs, guard=guard or GradientGuard(), max_grad_norm=None
        )
