"""Traversals: an image while one of its latent numbers changes and the others stay (beta-VAE, Higgins et al. 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_ae.inference.codec import Codec
from latent_ae.inference.latent_pictures import decoded
from latent_ae.io.image import Pixels

REACH = 2.5
"""standard deviations to either side of a unit's mean"""

Unit = tuple[int, int, int]
"""channel, row and column of a latent number"""


def most_active(latents: Tensor, count: int) -> list[Unit]:
    """The units of latents [N,c,h,w] that vary most over the images, the most active first."""
    variances = latents.double().var(0)
    order = variances.flatten().argsort(descending=True, stable=True)[:count]
    channels, rows, columns = torch.unravel_index(order, variances.shape)
    return list(zip(channels.tolist(), rows.tolist(), columns.tolist(), strict=True))


def traversals(
    codec: Codec, latents: Tensor, start: Tensor, units: Sequence[Unit], *, steps: int
) -> list[list[Pixels]]:
    """For each unit the image of `start` [c,h,w] with that unit from one end of its range to the other.

    The range is REACH standard deviations around the unit's mean over latents [N,c,h,w]; there are `steps` images.
    """
    rows = []
    for unit in units:
        values = latents[(slice(None), *unit)]
        vectors = start.repeat(steps, 1, 1, 1)
        vectors[(slice(None), *unit)] = values.mean() + values.std() * torch.linspace(-REACH, REACH, steps)
        rows.append(decoded(codec, vectors))
    return rows
