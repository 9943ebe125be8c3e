"""What is minimised, worked out by hand."""

import pytest
import torch

from latent_ae.models.hierarchical_prior import HierarchyTerms
from latent_ae.priors.hierarchy.objective import beta_at, ladder_loss


def terms() -> HierarchyTerms:
    """Two images, three levels."""
    kl = torch.tensor([[0.5, 2.0, 6.0], [1.5, 0.0, 4.0]], requires_grad=True)
    return HierarchyTerms(torch.tensor([10.0, 30.0]), kl, torch.zeros(2, 3))


def test_the_loss_is_the_bound_per_value() -> None:
    found = ladder_loss(terms(), beta=1.0, free_nats=0.0, values=4)
    assert found["loss"].item() == (10 + 8.5 + 30 + 5.5) / 2 / 4
    assert float(found["bound_nats"]) == (10 + 8.5 + 30 + 5.5) / 2
    assert [float(found[f"kl_level_{level}"]) for level in (1, 2, 3)] == [1.0, 1.0, 5.0]
    assert not any(found[name].requires_grad for name in found if name != "loss")


def test_beta_weighs_the_kl_alone_and_the_bound_stays_what_it_is() -> None:
    found = ladder_loss(terms(), beta=0.5, free_nats=0.0, values=1)
    assert found["loss"].item() == (10 + 30 + 0.5 * 14) / 2
    assert float(found["bound_nats"]) == 27


def test_free_nats_hold_each_level_of_each_image_by_itself() -> None:
    given = terms()
    found = ladder_loss(given, beta=1.0, free_nats=1.0, values=1)
    assert found["loss"].item() == (10 + 1 + 2 + 6 + 30 + 1.5 + 1 + 4) / 2
    found["loss"].backward()
    assert given.kl.grad is not None
    assert given.kl.grad.tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5]]


@pytest.mark.parametrize(("step", "beta"), [(0, 0.0), (75, 0.25), (300, 1.0), (301, 1.0)])
def test_beta_rises_to_one(step: int, beta: float) -> None:
    assert beta_at(step, 300) == beta


def test_without_a_warm_up_beta_is_one() -> None:
    assert beta_at(0, 0) == 1
