"""One step is one update from one global batch, and no more."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from latent_ae.config import TrainConfig
from latent_ae.data import Batch
from latent_ae.randomness import sample_noise
from latent_ae.training.build import build_optimizer
from latent_ae.training.objective import Objective, weighted_sum
from latent_ae.training.update import GradientGuard, UpdateResult
from tests.conftest import make_objective
from tests.training.test_preflight import WEIGHTS
from tests.training.tiny import Update

PIXELS = torch.linspace(-1, 1, 4 * 16 * 16).reshape(4, 1, 16, 16)


@pytest.fixture(autouse=True)
def _fresh_accelerate_state() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def step(
    objective: Objective,
    accumulation: int,
    max_grad_norm: float | None = None,
    guard: GradientGuard | None = None,
) -> tuple[UpdateResult, torch.optim.Optimizer]:
    update = Update(objective, None, accumulation, max_grad_norm)
    size = 4 // accumulation
    batches = [
        Batch(PIXELS[first : first + size], list(range(first, first + size)), ["x"] * size, [])
        for first in range(0, 4, size)
    ]
    return update.generator(0, WEIGHTS, guard, batches), update.optimizer


def by_hand(objective: Objective, max_grad_norm: float = float("inf")) -> tuple[float, float]:
    """The same update with plain torch."""
    optimizer = build_optimizer(objective, TrainConfig(learning_rate=1e-3))
    loss = weighted_sum(objective(PIXELS, sample_noise(0, 0, 4, (2, 8, 8))).losses, WEIGHTS)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.requires_grad], max_grad_norm)
    optimizer.step()
    return loss.item(), float(norm)


def parameters(objective: Objective) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in objective.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
def test_a_step_is_the_update_of_plain_torch(max_grad_norm: float | None) -> None:
    ours, plain = make_objective("gaussian_nll"), make_objective("gaussian_nll")
    result, _ = step(ours, 1, max_grad_norm)
    loss, norm = by_hand(plain, max_grad_norm or float("inf"))
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)
    for a, b in zip(parameters(ours), parameters(plain), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_makes_one_update_of_the_whole_batch(accumulation: int) -> None:
    ours, plain = make_objective(), make_objective()
    result, optimizer = step(ours, accumulation)
    loss, norm = by_hand(plain)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.grad_norm == pytest.approx(norm, rel=1e-4)
    assert {float(moments["step"]) for moments in optimizer.state.values()} == {1.0}


def test_the_log_has_each_term_as_it_was_summed() -> None:
    result, _ = step(make_objective(), 1)
    assert set(result.losses) == {"reconstruction", "perceptual", "kl"}
    total = sum(WEIGHTS.of(name) * value for name, value in result.losses.items())
    assert result.loss == pytest.approx(total, rel=1e-6)


def test_no_gradient_is_left_for_the_next_step() -> None:
    objective = make_objective()
    step(objective, 2)
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_the_target_side_of_the_perceptual_term_has_no_graph() -> None:
    objective = make_objective()
    pixels = PIXELS.clone().requires_grad_()
    assert objective.perceptual is not None
    (gradient,) = torch.autograd.grad(
        objective.perceptual(PIXELS.flip(0), pixels).sum() + 0 * pixels.sum(), pixels, allow_unused=True
    )
    assert gradient.abs().max() == 0


def test_capacity_draws_the_kl_to_its_target() -> None:
    objective = make_objective()
    noise = sample_noise(0, 0, 4, (2, 8, 8))
    with torch.no_grad():
        nats = objective(PIXELS, noise).stats["kl_nats"].item()
        below = objective(PIXELS, noise, capacity=nats + 100.0).losses["kl"].item()
        above = objective(PIXELS, noise, capacity=0.0).losses["kl"].item()
    assert below == pytest.approx(100.0 / 256, rel=0.05)
    assert above == pytest.approx(nats / 256, rel=1e-5)
