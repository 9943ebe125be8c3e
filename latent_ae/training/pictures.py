"""The pictures a run draws of itself: reconstructions, draws from the prior, a morph."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_ae.io.image import from_tensor, image_grid
from latent_ae.models import Autoencoder, latent_shape
from latent_ae.models.encode_decode import decode, encode, reconstruct
from latent_ae.models.latent_space import interpolate, prior_draw

Picture = NDArray[np.uint8]


def reconstruction_grid(model: Autoencoder, images: Sequence[Tensor], *, columns: int = 8) -> Picture:
    """Inputs above their reconstructions, for images [C,H,W] in [-1, 1] of any sizes (cut to the smallest)."""
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    rows = []
    for first in range(0, len(images), columns):
        group = torch.stack([_centre(image, height, width) for image in images[first : first + columns]])
        rows += [list(from_tensor(group)), list(from_tensor(reconstruct(model, group)))]
    return image_grid(rows)


def prior_draws(model: Autoencoder, *, size: int, count: int, seed: int, columns: int = 16) -> Picture:
    """Decoded draws of raw latents from N(0, 1), the prior that the KL term pulls the posterior to."""
    shape = latent_shape(model, size)
    pixels = from_tensor(decode(model, prior_draw(shape, count, seed=seed)))
    return image_grid([list(pixels[first : first + columns]) for first in range(0, count, columns)])


def morph(model: Autoencoder, pairs: Sequence[tuple[Tensor, Tensor]], *, steps: int = 9) -> Picture:
    """A row for each pair of images [C,H,W]: decodings along the straight line between their posterior means."""
    rows = []
    for start, end in pairs:
        a, b = encode(model, torch.stack([start, end]))
        rows.append(list(from_tensor(decode(model, interpolate(a, b, steps, spherical=False)))))
    return image_grid(rows)


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
