"""Compiled blocks train what the eager model trains, with a weight that asks for gradients before the backward."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from tests.conftest import make_objective
from tests.training.tiny import PIXELS, WEIGHTS, Update, make_adversary, make_coded

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # compiling; the compiler warns of itself
STEPS = 4
"""the last layer's gradients are first taken in the second, after a plain backward"""


@pytest.fixture(autouse=True)
def _as_if_nothing_was_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is run by torch: graphs and the rules of their backward are there, no C++ is made of them."""
    own = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: own(module, backend="aot_eager"))


def trained(kind: str, *, compiled: bool, recompute: bool = False) -> tuple[list[float], dict[str, Tensor]]:
    """The loss of each step, and the gradients of the first."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    objective = make_objective(perceptual=False) if kind == "kl" else make_coded(kind)
    names = list(objective.state_dict())
    objective.train()
    if kind == "vq":
        objective.to(memory_format=torch.channels_last)
    if recompute:
        objective.model.recompute_activations()
    if compiled:
        objective.model.compile_blocks(one_size=True)
    assert list(objective.state_dict()) == names
    noise = torch.zeros(4, *objective.model.bottleneck.noise_shape((2, 8, 8)))
    objective(PIXELS, noise).losses["reconstruction"].backward()
    gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    update, losses = Update(objective, make_adversary(objective, start_step=2)), []
    for step in range(STEPS):
        assert update.adversary is not None
        terms = {**WEIGHTS.terms, "adversarial": update.adversary.generator_weight()}
        result = update.generator(step, replace(WEIGHTS, terms=terms))
        update.adversary.after_generator_update(result.sums)
        assert ("last_layer.adversarial" in result.sums) == (step >= 1)
        losses.append(result.loss)
        if result.pairs:
            update.discriminator(result)
    return losses, gradients


def check_equals_eager(kind: str, *, recompute: bool) -> None:
    losses, gradients = trained(kind, compiled=True, recompute=recompute)
    eager, expected = trained(kind, compiled=False, recompute=recompute)
    assert losses == pytest.approx(eager, rel=1e-4)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("kind", "recompute"), [("kl", False), ("vq", True)])
def test_an_adaptive_weight_is_measured_before_a_compiled_backward(kind: str, recompute: bool) -> None:
    check_equals_eager(kind, recompute=recompute)


def test_what_the_compiler_makes_trains_as_the_eager_model() -> None:
    check_equals_eager("kl", recompute=False)
