"""A hierarchical prior over latents: the upper part of a hierarchical VAE, whose lower part is their autoencoder.

    latents z -> q(u|z) -> levels u from 1x1 down -> p(z|u)
    loss = mean_B [ -log p(z|u) + beta * sum_l max(free, KL(q(u_l|u_<l, z) || p(u_l|u_<l))) ] / (c h w)

With beta 1 and nothing free it is the negative lower bound of log p(z) in nats per latent value. The result is a folder
that `latent-ae sample` and `likelihood` take, with pictures of what it draws and of what its levels decide.
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from latent_ae.config import OptimizationConfig
from latent_ae.config.section import Count, CountOrNone, NotNegative
from latent_ae.export.proof import ProofFailed
from latent_ae.io.image import Pixels, image_grid
from latent_ae.latent_dataset import LatentDataset
from latent_ae.latent_dataset.index import STATISTICS
from latent_ae.models.encode_decode import decode_latents, inference
from latent_ae.models.hierarchical_prior import HierarchicalPrior, HierarchyTerms
from latent_ae.models.prior_loading import load_prior
from latent_ae.priors.prior import SAMPLES, Batch, Prior, PriorConfig, Samples
from latent_ae.priors.source import LatentSource
from latent_ae.randomness import sample_noise, torch_generator

LEVELS = "levels.png"
_ROWS, _COLUMNS, _QUARTERS = 8, 16, 4
_MEASURED, _BATCH = 1024, 128


class HierarchyConfig(PriorConfig):
    """The network's size, and the levels' KL."""

    SUMMARY: ClassVar[str] = "a hierarchical VAE above the latents, which draws and gives likelihoods"
    TRAIN: ClassVar[Mapping[str, object]] = {"steps": 2500, "learning_rate": 2e-3, "weight_decay": 0.01}
    MOVED: ClassVar[tuple[str, ...]] = ("train.kl_warmup_steps", "train.free_nats")
    RESULT: ClassVar[str] = "prior"
    INDEX: ClassVar[str] = "config.json"
    PROMISE: ClassVar[str] = "latent-ae sample and likelihood take it as --prior"
    SCALED: ClassVar[bool] = False

    kind: Literal["hierarchy"] = "hierarchy"
    width: Count = 64
    """channels of the network"""
    level_channels: Count = 8
    """channels of every level's latents"""
    levels_per_grid: Count = 1
    """levels on each of the grids 1x1, 2x2, 4x4 ... up to that of the autoencoder's latents"""
    kl_warmup_steps: CountOrNone = 100
    """steps over which the weight of the levels' KL rises linearly from 0 to 1 (Sonderby et al. 2016)"""
    free_nats: NotNegative = 1.0
    """KL of a level in an image below which it is not lowered further (free bits, Kingma et al. 2016): with 0, the top
    level may go unused"""

    def check_train(self, train: OptimizationConfig) -> None:
        """The KL has to reach its weight."""
        if self.kl_warmup_steps > train.steps:
            raise ValueError(f"prior.kl_warmup_steps {self.kl_warmup_steps} is more than train.steps {train.steps}")

    def build(self, source: LatentSource, *, seed: int) -> "Hierarchy":
        """A ladder for the latents' size, that knows mean and deviation of their channels."""
        network: HierarchicalPrior = HierarchicalPrior(
            channels=source.channels,
            side=source.side,
            encoder_identity=source.identity,
            width=self.width,
            level_channels=self.level_channels,
            levels_per_grid=self.levels_per_grid,
        )
        statistics = json.loads((source.rows.folder / STATISTICS).read_text(encoding="utf-8"))["latents"]
        network.set_statistics(statistics["channel_mean"], statistics["channel_std"])
        return Hierarchy(network, source, seed, self)


class Sample(NamedTuple):
    """One, or with a first axis a batch."""

    latents: Tensor
    """[c,h,w] float32, raw"""
    noise: Tensor
    """[noise_values] float32 from N(0, 1), for the levels"""


def level_noise(row: dict[str, Tensor], generator: torch.Generator, *, values: int) -> Sample:
    """A row's latents with noise for the levels, so many values."""
    return Sample(row["latents"], torch.randn(values, generator=generator))


class Hierarchy(Prior[HierarchicalPrior]):
    """A ladder of latents above those of an autoencoder."""

    def __init__(self, network: HierarchicalPrior, source: LatentSource, seed: int, settings: HierarchyConfig) -> None:
        make = partial(level_noise, values=network.noise_values)
        super().__init__(network, Samples(source.rows, make, kind="hierarchy", seed=seed), source, seed)
        self._settings = settings

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """The bound of -log p(z) in nats per latent value, its KL warmed up, and what it is made of."""
        beta, free_nats = beta_at(step, self._settings.kl_warmup_steps), self._settings.free_nats
        values = math.prod(self.network.latent_shape)
        return ladder_loss(network(*Sample(*batch)), beta=beta, free_nats=free_nats, values=values)

    def draw(self, network: HierarchicalPrior) -> Pixels:
        """Draws in rows, none chosen."""
        noise = torch.randn(_ROWS * _COLUMNS, network.draw_values, generator=torch_generator(self.seed, "draws"))
        return self._grid(network, noise)

    def pictures(self, network: HierarchicalPrior) -> dict[str, Pixels]:
        """Draws, and what levels decide."""
        return {SAMPLES: self.draw(network), LEVELS: self.levels_grid(network)}

    def levels_grid(self, network: HierarchicalPrior) -> Pixels:
        """A row for each number of grids, from none to all of 1x1, 2x2 ...: draws that share the levels on those.

        Each quarter of a row shares those of one draw. What differs in it the levels below have decided; in the last
        row only the noise of p(z|u).
        """
        noise = torch.randn(_COLUMNS, network.draw_values, generator=torch_generator(self.seed, "levels"))
        shared = torch.randn(_QUARTERS, network.draw_values, generator=torch_generator(self.seed, "levels", 0))
        shared = shared.repeat_interleave(_COLUMNS // _QUARTERS, 0)
        return self._grid(
            network, torch.cat([torch.cat([shared[:, :end], noise[:, end:]], 1) for end in network.grid_ends])
        )

    def save(self, network: HierarchicalPrior, folder: Path) -> None:
        """Write the prior, whose weights must come back the same."""
        network.save_pretrained(folder)
        loaded, written = load_prior(str(folder)), network.state_dict()
        assert isinstance(loaded, HierarchicalPrior)
        if not all(torch.equal(tensor, written[name].cpu()) for name, tensor in loaded.state_dict().items()):
            raise ProofFailed("the prior that was written has other weights than the one in memory")

    def card(self, network: HierarchicalPrior, *, name: str, steps: int) -> str:
        """What the levels are, and what they cost."""
        data, autoencoder = self.source.data_name, self.source.autoencoder_name
        measured = measure(network, self.source.rows, seed=self.seed)
        size = "x".join(map(str, network.latent_shape))
        levels = "\n".join(
            f"| {number} | {channels} x {height}x{width} | {kl:.2f} |"
            for number, ((channels, height, width), kl) in enumerate(
                zip(network.level_shapes, measured.kl, strict=True), start=1
            )
        )
        return f"""---
library_name: diffusers
tags: [hierarchical-vae, prior]
---

# {name}

A hierarchical prior over the {size} latents of {data}, {steps} updates. With the decoder of {autoencoder} below, it
is a hierarchical VAE.

![Draws, none chosen]({SAMPLES})

*Draws, none chosen.*

![What levels decide]({LEVELS})

*What levels decide: the draws in each quarter of a row share the levels of the coarsest grids, in the first row none,
in the second those on 1x1, in the third those on 2x2 too, and so on, in the last all but the noise of p(z|u).*

| level | channels x grid | KL, nats |
|---|---|---|
{levels}

Means over {measured.rows} training latents, averaged weights. A level of hardly any KL is not used. The KL of the
autoencoder's latents is {measured.saved:.2f} nats an image lower than under N(0, I); the second line measures it on
held-out images.

```bash
latent-ae sample --model MODEL --prior DIR -o draws.png
latent-ae likelihood MODEL --prior DIR --data.source ...
```

Encoder identity of the latents: `{network.encoder_identity}`.
"""

    def _grid(self, network: HierarchicalPrior, noise: Tensor) -> Pixels:
        autoencoder, images = self.source.autoencoder.to(network.device), list[Pixels]()
        with inference(autoencoder):
            for part in noise.split(_COLUMNS):
                images.extend(self.source.pixels.previews(decode_latents(autoencoder, network.draw(part))))
        return image_grid([images[first : first + _COLUMNS] for first in range(0, len(images), _COLUMNS)])


def beta_at(step: int, warmup_steps: int) -> float:
    """The KL's weight of an update, `step` updates having been made: 0 at first, 1 from `warmup_steps` on."""
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def ladder_loss(terms: HierarchyTerms, *, beta: float, free_nats: float, values: int) -> dict[str, Tensor]:
    """The loss and, beside it, the bound and each level's KL in nats, as means over the batch.

    `values` is c * h * w. Free nats are per image and level and not of a batch's mean, so that the loss of a batch does
    not depend on how it is cut into micro-batches.
    """
    held = terms.kl.clamp(min=free_nats)
    minimised = (terms.reconstruction + beta * held.sum(1)) / values
    levels = terms.kl.detach().mean(0)
    return {
        "loss": minimised.mean(),
        "bound_nats": (terms.reconstruction.detach() + terms.kl.detach().sum(1)).mean(),
        **{f"kl_level_{number}": kl for number, kl in enumerate(levels, start=1)},
    }


class Measured(NamedTuple):
    """Means over rows of a data set of latents, in nats."""

    rows: int
    kl: tuple[float, ...]
    """of every level, the top first"""
    saved: float
    """-log p(z) under N(0, I) less its bound here: by so much the autoencoder's own KL term becomes smaller"""


def measure(prior: HierarchicalPrior, rows: LatentDataset, *, seed: int) -> Measured:
    """What the first rows of a data set cost."""
    rows.set_epoch(0)  # or what is drawn would depend on how training read them
    count = min(_MEASURED, len(rows))
    kl, saved = torch.zeros(len(prior.level_shapes), dtype=torch.float64), 0.0
    for first in range(0, count, _BATCH):
        numbers = range(first, min(first + _BATCH, count))
        latents = torch.stack([rows[number]["latents"] for number in numbers]).to(prior.device)
        noise = sample_noise(seed, first, len(numbers), (prior.noise_values,), purpose="measured levels")
        with torch.no_grad():
            terms = prior(latents, noise.to(prior.device))
        kl += terms.kl.sum(0).cpu().double()
        normal = 0.5 * (latents.square() + math.log(2 * math.pi)).sum((1, 2, 3))
        saved += float((normal - terms.reconstruction - terms.kl.sum(1)).cpu().double().sum())
    return Measured(count, tuple((kl / count).tolist()), saved / count)
