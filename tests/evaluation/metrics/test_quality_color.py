"""The colour bias against numbers worked out by hand."""

import pytest
import torch

from latent_ae.evaluation.metrics.quality import color_bias


def test_by_hand() -> None:
    target = torch.zeros(2, 3, 2, 2)
    reconstruction = target.clone()
    reconstruction[0, 0] = 0.25
    reconstruction[0, 1, 0] = -0.5  # half of the pixels
    reconstruction[0, 2] = torch.tensor([[0.5, -0.5], [0.25, -0.25]])  # an error without bias
    reconstruction[1, 0, 0, 0] = 9  # clamped to 1
    got = color_bias(reconstruction, target)
    assert got.tolist() == [[0.25, -0.25, 0], [0.25, 0, 0]]
    assert got.mean(0).tolist() == [0.25, -0.125, 0]


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\] of one shape"):
        color_bias(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))
