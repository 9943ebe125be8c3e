"""The guard by its rule, and in an update: what it forbids leaves everything as it was."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from latent_ae.config import validate
from latent_ae.training.build import build_guards
from latent_ae.training.settings import RunConfig
from latent_ae.training.update import GradientGuard, NonFiniteError
from tests.conftest import make_objective
from tests.training.test_step import parameters, step

GOOD = {"norm": 0.5, "lost": False, "scaled": False}
SPIKE = {"norm": 9.0, "lost": False, "scaled": False}
OVERFLOW = {"norm": math.inf, "lost": False, "scaled": False}
LOST = {"norm": math.nan, "lost": True, "scaled": False}


def allows(guard: GradientGuard, update: dict[str, Any], ids: Callable[[], list[str]] = list) -> bool:
    return guard.allows(**update, sample_ids=ids)


def state(skipped: int, in_a_row: int) -> dict[str, int]:
    return {"skipped": skipped, "in_a_row": in_a_row}


def test_without_patience_the_first_update_that_is_not_finite_ends_the_run() -> None:
    guard = GradientGuard()
    assert allows(guard, GOOD)
    with pytest.raises(NonFiniteError) as caught:
        allows(guard, OVERFLOW, lambda: ["a", "b"])
    assert str(caught.value) == "the gradient norm (inf) is not finite; no update was made"
    assert caught.value.sample_ids == ["a", "b"]


def test_without_a_threshold_no_finite_norm_is_too_large() -> None:
    assert allows(GradientGuard(), {**GOOD, "norm": 1e30})


@pytest.mark.parametrize("bad", [SPIKE, OVERFLOW, LOST])
def test_bad_updates_are_skipped_and_counted_and_a_good_one_renews_patience(bad: dict[str, Any]) -> None:
    guard = GradientGuard(threshold=1.0, patience=2)
    made = [allows(guard, update) for update in (bad, bad, GOOD, bad, GOOD)]
    assert made == [False, False, True, False, True]
    assert guard.state() == state(skipped=3, in_a_row=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (SPIKE, "the gradient norm 9 is above train.skip_above_grad_norm 1, as in 3 updates in a row"),
        (OVERFLOW, r"the gradient norm \(inf\) is not finite, as in 3 updates in a row"),
        (LOST, "the loss is not finite, as in 3 updates in a row"),
    ],
)
def test_the_update_after_the_last_of_patience_ends_the_run(bad: dict[str, Any], message: str) -> None:
    guard = GradientGuard(threshold=1.0, patience=2)
    assert [allows(guard, bad) for _ in range(2)] == [False, False]
    with pytest.raises(NonFiniteError, match=message):
        allows(guard, bad)


def test_a_norm_at_the_threshold_passes() -> None:
    guard = GradientGuard(threshold=1.0, patience=1)
    assert allows(guard, {**GOOD, "norm": 1.0})
    assert not allows(guard, {**GOOD, "norm": math.nextafter(1.0, 2.0)})


def test_ids_are_asked_for_only_when_the_run_ends() -> None:
    def ask() -> list[str]:
        raise AssertionError("gathering ids is a collective: it costs every skipped update")

    assert not allows(GradientGuard(patience=1), LOST, ask)


def test_in_fp16_an_overflow_is_no_update_but_costs_no_patience_as_a_lost_loss_and_a_spike_do() -> None:
    guard = GradientGuard(threshold=1.0, patience=9)
    assert not allows(guard, {**OVERFLOW, "scaled": True})
    assert guard.state() == state(skipped=0, in_a_row=0)
    assert not allows(guard, {**SPIKE, "scaled": True})
    assert not allows(guard, {**LOST, "scaled": True})
    assert not allows(guard, {**OVERFLOW, "scaled": True})
    assert guard.state() == state(skipped=2, in_a_row=2), "an overflow renewed the patience"


def test_a_restored_guard_has_the_patience_that_was_left() -> None:
    first, second = GradientGuard(patience=2), GradientGuard(patience=2)
    for _ in range(2):
        allows(first, LOST)
    second.restore(first.state())
    assert second.state() == state(skipped=2, in_a_row=2)
    with pytest.raises(NonFiniteError):
        allows(second, LOST)


def test_each_side_has_a_guard_of_its_own_with_the_settings() -> None:
    train = {"skip_above_grad_norm": 3.0, "max_skips_in_a_row": 5}
    adversarial = {"loss": "hinge", "skip_above_grad_norm": 9.0}
    guards = build_guards(validate(RunConfig, {"train": train, "adversarial": adversarial}))
    assert {side: (guard.threshold, guard.patience) for side, guard in guards.items()} == {
        "generator": (3.0, 5),
        "discriminator": (9.0, 5),
    }
    guards["discriminator"].restore(state(skipped=5, in_a_row=5))
    with pytest.raises(NonFiniteError, match=r"the discriminator's .* above adversarial\.skip_above_grad_norm 9"):
        guards["discriminator"].allows(99.0, lost=False, scaled=False, sample_ids=list, whose="discriminator's ")


def test_a_spiking_update_leaves_weights_and_moments_and_no_gradient() -> None:
    objective, guard = make_objective(), GradientGuard(threshold=1e-4, patience=1)
    before = parameters(objective)
    result, optimizer = step(objective, 2, guard=guard)
    assert result.grad_norm > 1e-4
    assert not result.updated
    assert not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(parameters(objective), before, strict=True))
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert guard.state() == state(skipped=1, in_a_row=1)


def test_the_threshold_is_for_the_norm_before_it_is_clipped() -> None:
    result, _ = step(make_objective(), 1, max_grad_norm=1e-5, guard=GradientGuard(threshold=1e-4, patience=1))
    assert not result.updated
