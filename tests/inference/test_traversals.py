"""Traversals against units and values worked out by hand."""

import numpy as np
import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.inference import Codec
from latent_ae.inference.traversals import REACH, most_active, traversals
from latent_ae.models import build_autoencoder


def test_the_units_that_vary_most_come_first() -> None:
    latents = torch.zeros(4, 2, 2, 3)
    latents[:, 1, 0, 2] = torch.tensor([-3.0, 3.0, -3.0, 3.0])
    latents[:, 0, 1, 1] = torch.tensor([10.0, 11.0, 12.0, 11.0])  # far from 0, and less active
    assert most_active(latents, 2) == [(1, 0, 2), (0, 1, 1)]


def test_one_unit_changes_and_the_others_stay() -> None:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=8)
    codec = Codec(model, name="tiny", precision="exact")
    start = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    latents = torch.zeros(2, 2, 4, 4)
    latents[:, 1, 2, 3] = torch.tensor([4.0, 6.0])  # mean 5, standard deviation sqrt 2
    (row,) = traversals(codec, latents, start, [(1, 2, 3)], steps=3)
    for image, value in zip(row, (5 - REACH * 2**0.5, 5.0, 5 + REACH * 2**0.5), strict=True):
        changed = start.clone()
        changed[1, 2, 3] = value
        assert np.array_equal(image, codec.pixel_format.previews(codec.decode_tensor(changed[None]))[0])


@pytest.mark.parametrize("count", [1, 50])
def test_there_are_no_more_units_than_numbers(count: int) -> None:
    assert len(most_active(torch.randn(5, 2, 2, 2), count)) == min(count, 8)
