import math

import pytest
import torch

from latent_ae.training.losses import RECONSTRUCTION, Charbonnier, GaussianNLL

ZERO = torch.zeros(2, 1, 2, 2)
# Errors of the first image: 0, 0, 1, -2; of the second: all 0.5.
OTHER = torch.tensor([[[[0.0, 0.0], [1.0, -2.0]]], [[[0.5, 0.5], [0.5, 0.5]]]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [0.75, 0.5]),
        ("l2", [1.25, 0.25]),
        ("gaussian_nll", [0.625 + 0.5 * math.log(2 * math.pi), 0.125 + 0.5 * math.log(2 * math.pi)]),
        ("log_mse", [0.5 * math.log(1.2501), 0.5 * math.log(0.2501)]),
    ],
)
def test_values_by_hand(name: str, expected: list[float]) -> None:
    assert RECONSTRUCTION[name]()(OTHER, ZERO).tolist() == pytest.approx(expected)


def test_charbonnier_by_hand() -> None:
    assert Charbonnier(epsilon=0.75)(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)).item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_every_term_is_one_value_per_image_and_trains_the_reconstruction(name: str) -> None:
    reconstruction = torch.rand(3, 3, 4, 4, requires_grad=True)
    target = torch.rand(3, 3, 4, 4)
    values = RECONSTRUCTION[name]()(reconstruction, target)
    assert values.shape == (3,)
    (gradient,) = torch.autograd.grad(values.sum(), reconstruction)
    assert gradient.abs().min() > 0


def test_the_log_variance_learns_the_log_of_the_mean_squared_error() -> None:
    term = GaussianNLL(log_variance=math.log(1.25))
    (gradient,) = torch.autograd.grad(term(OTHER[:1], ZERO[:1]).sum(), term.log_variance)
    assert gradient.item() == pytest.approx(0.0, abs=1e-7)
