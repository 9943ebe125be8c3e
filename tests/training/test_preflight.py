"""The eight defects of the usual trainer begin with a loss that trains nothing: preflight must catch it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from latent_ae.training.objective import Objective, Weights
from latent_ae.training.preflight import PreflightError, preflight
from tests.conftest import make_objective

PIXELS = torch.linspace(-1, 1, 16 * 16).reshape(1, 1, 16, 16)
NOISE = torch.ones(1, 2, 8, 8)
WEIGHTS = Weights({"perceptual": 1.0, "kl": 1e-6})


class Wrapped(nn.Module):
    """A term, and something done to it."""

    def __init__(self, term: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.term, self.change = term, change

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.change(self.term(*arguments))


class NoGrad(Wrapped):
    """What the standard trainer does to LPIPS."""

    def forward(self, *arguments: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(*arguments)


def test_a_sound_objective_passes_and_keeps_no_gradient(objective: Objective) -> None:
    table = preflight(objective, PIXELS, NOISE, WEIGHTS)
    assert set(table.norms) == {"reconstruction", "perceptual", "kl"}
    assert table.norms["kl"]["decoder"] == 0.0
    assert table.norms["kl"]["encoder"] > 0.0
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert "perceptual" in str(table)


def test_a_learned_log_variance_is_trained_by_the_reconstruction_alone() -> None:
    table = preflight(make_objective("gaussian_nll"), PIXELS, NOISE, WEIGHTS)
    assert [table.norms[term]["reconstruction"] > 0 for term in ("reconstruction", "perceptual", "kl")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("term", ["reconstruction", "perceptual"])
def test_a_term_under_no_grad_ends_the_run(objective: Objective, term: str) -> None:
    setattr(objective, term, NoGrad(getattr(objective, term), lambda value: value))
    with pytest.raises(PreflightError, match=f"the {term} term has no gradient in decoder"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_a_non_finite_gradient_ends_the_run(objective: Objective) -> None:
    objective.reconstruction = Wrapped(objective.reconstruction, lambda value: (value - value).sqrt())
    with pytest.raises(PreflightError, match="the reconstruction term has a non-finite gradient in encoder"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_a_thawed_perceptual_network_ends_the_run(objective: Objective) -> None:
    assert objective.perceptual is not None
    objective.perceptual.requires_grad_(True)
    with pytest.raises(PreflightError, match="perceptual network, which it is not meant to train"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_a_frozen_decoder_ends_the_run(objective: Objective) -> None:
    objective.model.autoencoder.decoder.requires_grad_(False)
    with pytest.raises((PreflightError, ValueError), match="decoder"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_terms_without_weight_are_not_asked_for(objective: Objective) -> None:
    assert set(preflight(objective, PIXELS, NOISE, Weights({"perceptual": 0.0, "kl": 0.0})).norms) == {"reconstruction"}


def test_free_bits_above_a_fresh_models_kl_are_not_a_violation() -> None:
    objective = make_objective(free_bits=10.0)
    assert preflight(objective, PIXELS, NOISE, WEIGHTS).norms["kl"]["encoder"] > 0
    assert objective.model.bottleneck.free_bits == 10.0
