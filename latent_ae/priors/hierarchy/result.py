"""The result: a hierarchical prior as a folder, with pictures of what it draws and of what its levels decide."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.export.proof import ProofFailed
from latent_ae.export.source import CARD
from latent_ae.io.atomic import placed
from latent_ae.io.image import Pixels, from_tensor, image_grid, save_png
from latent_ae.latent_dataset import LatentDataset
from latent_ae.models.encode_decode import decode_latents, inference
from latent_ae.models.hierarchical_prior import HierarchicalPrior, load_prior
from latent_ae.priors.settings import SAMPLES
from latent_ae.randomness import sample_noise, torch_generator

LEVELS = "levels.png"
_ROWS, _COLUMNS, _QUARTERS = 8, 16, 4
_MEASURED, _BATCH = 1024, 128


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


def draw_grid(prior: HierarchicalPrior, autoencoder: AutoencoderKL, *, seed: int) -> Pixels:
    """Draws in rows, none chosen."""
    noise = torch.randn(_ROWS * _COLUMNS, prior.draw_values, generator=torch_generator(seed, "draws"))
    return _grid(prior, autoencoder, noise)


def levels_grid(prior: HierarchicalPrior, autoencoder: AutoencoderKL, *, seed: int) -> Pixels:
    """A row for each number of grids, from none to all of 1x1, 2x2 ...: draws that share the levels on those.

    Each quarter of a row shares those of one draw. What differs in it the levels below have decided; in the last row
    only the noise of p(z|u).
    """
    noise = torch.randn(_COLUMNS, prior.draw_values, generator=torch_generator(seed, "levels"))
    shared = torch.randn(_QUARTERS, prior.draw_values, generator=torch_generator(seed, "levels", 0))
    shared = shared.repeat_interleave(_COLUMNS // _QUARTERS, 0)
    rows = [torch.cat([shared[:, :end], noise[:, end:]], 1) for end in prior.grid_ends]
    return _grid(prior, autoencoder, torch.cat(rows))


def write_prior(prior: HierarchicalPrior, folder: Path, pictures: dict[str, Pixels], card: str) -> None:
    """Write the folder in place of an earlier one, once it has been loaded again and found the same.

    Raises ProofFailed, OSError.
    """
    with placed([folder], replace=True) as beside:
        made = beside / folder.name
        prior.save_pretrained(made)
        for name, picture in pictures.items():
            save_png(made / name, picture)
        (made / CARD).write_text(card, encoding="utf-8")
        loaded, written = load_prior(str(made)), prior.state_dict()
        if not all(torch.equal(tensor, written[name].cpu()) for name, tensor in loaded.state_dict().items()):
            raise ProofFailed("the prior that was written has other weights than the one in memory")


def card_text(
    *, name: str, data: str, autoencoder: str, prior: HierarchicalPrior, steps: int, measured: Measured
) -> str:
    """The folder's README.md."""
    size = "x".join(map(str, prior.latent_shape))
    levels = "\n".join(
        f"| {number} | {channels} x {height}x{width} | {kl:.2f} |"
        for number, ((channels, height, width), kl) in enumerate(
            zip(prior.level_shapes, measured.kl, strict=True), start=1
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

Encoder identity of the latents: `{prior.encoder_identity}`.
"""


def _grid(prior: HierarchicalPrior, autoencoder: AutoencoderKL, noise: Tensor) -> Pixels:
    images: list[Pixels] = []
    with inference(autoencoder):
        for part in noise.split(_COLUMNS):
            images.extend(from_tensor(decode_latents(autoencoder, prior.draw(part))))
    return image_grid([images[first : first + _COLUMNS] for first in range(0, len(images), _COLUMNS)])
