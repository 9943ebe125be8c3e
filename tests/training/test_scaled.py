"""Updates in fp16: a scaled gradient that overflows makes no update of anything, and ends the run if nothing helps.

A GradScaler of the CPU stands for CUDA's, before the fused AdamW that training uses.
"""

import math

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from latent_ae.training.update import NonFiniteError, UpdateResult
from tests.conftest import make_objective
from tests.training.test_preflight import WEIGHTS
from tests.training.tiny import Update, make_adversary


@pytest.fixture(autouse=True)
def _fresh_accelerate_state() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Scaled(Update):
    """A generator alone, its gradients scaled."""

    def __init__(self) -> None:
        super().__init__(make_objective(), max_grad_norm=1.0)
        self.accelerator.scaler = torch.amp.GradScaler("cpu")
        # As it does itself on CUDA.
        self.accelerator.unscale_gradients = lambda: self.accelerator.scaler.unscale_(self.optimizer)
        self.training.optimizer = self.accelerator.prepare_optimizer(self.optimizer)

    def step(self, step: int) -> UpdateResult:
        return self.generator(step, WEIGHTS)


def overflow(parameter: nn.Parameter, times: float = math.inf) -> None:
    """Let so many of its gradients overflow; every loss stays finite."""
    left = [times]

    def hook(gradient: Tensor) -> Tensor | None:
        left[0] -= 1
        return gradient * math.inf if left[0] >= 0 else None

    parameter.register_hook(hook)


def copied(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(module: nn.Module, before: list[Tensor]) -> bool:
    return all(map(torch.equal, module.parameters(), before))


def test_an_overflow_is_no_update_and_the_next_one_has_a_lower_scale() -> None:
    side = Scaled()
    overflow(side.objective.model.autoencoder.decoder.conv_out.weight, times=1)
    before = copied(side.objective)
    first = side.step(0)
    assert not math.isfinite(first.grad_norm)
    assert not first.updated
    assert same(side.objective, before)
    assert side.accelerator.scaler.get_scale() == 2.0**15
    assert all(parameter.grad is None for parameter in side.objective.parameters())
    second = side.step(1)
    assert second.updated
    assert not same(side.objective, before)
    assert {float(moments["step"]) for moments in side.optimizer.state.values()} == {1.0}


def test_an_overflow_at_every_scale_ends_the_run() -> None:
    side = Scaled()
    overflow(side.objective.model.autoencoder.decoder.conv_out.weight)
    before = copied(side.objective)
    assert [side.step(step).updated for step in range(16)] == [False] * 16  # from 65536 down to 1
    with pytest.raises(NonFiniteError, match="the fp16 gradients overflow at every loss scale; use bf16") as caught:
        side.step(16)
    assert caught.value.sample_ids == ["x"] * 4
    assert same(side.objective, before)


def test_an_overflow_of_the_discriminator_moves_nothing_of_it() -> None:
    objective = make_objective(perceptual=False)
    update = Update(objective, make_adversary(objective))
    adversary = update.adversary
    assert adversary is not None
    assert adversary.module.lecam is not None
    adversary.scaler = torch.amp.GradScaler("cpu")
    overflow(next(adversary.network.parameters()))
    before = copied(adversary.network)
    averages = {name: value.clone() for name, value in adversary.module.lecam.state_dict().items()}
    result = update.generator()
    assert [update.discriminator(result).updated for _ in range(16)] == [False] * 16
    with pytest.raises(NonFiniteError, match="the discriminator's fp16 gradients overflow at every loss scale"):
        update.discriminator(result)
    assert same(adversary.network, before)
    assert all(torch.equal(value, averages[name]) for name, value in adversary.module.lecam.state_dict().items())
