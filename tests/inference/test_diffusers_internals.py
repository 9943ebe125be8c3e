"""What is read of diffusers' blocks without being documented is there in the installed version."""

from copy import deepcopy

import pytest
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from latent_ae.inference.diffusers_internals import (
    FINAL_ACTIVATION,
    INTERNALS,
    attention_parts,
    resnet_parts,
    upsampling_conv,
)
from tests.models.stock_models import stock


@pytest.fixture(scope="module")
def modules() -> list[nn.Module]:
    return list(stock("stable diffusion").modules())


@pytest.mark.parametrize("kind", INTERNALS, ids=lambda kind: kind.__name__)
def test_every_internal_is_there(kind: type[nn.Module], modules: list[nn.Module]) -> None:
    blocks = [module for module in modules if isinstance(module, kind)]
    assert blocks
    for block in blocks:
        assert [name for name in INTERNALS[kind] if not hasattr(block, name)] == []


def test_the_blocks_of_a_stock_model_are_recognised(modules: list[nn.Module]) -> None:
    """Names alone are not enough: a block that changed in another way would run unfused."""
    for kind, parts in ((ResnetBlock2D, resnet_parts), (Attention, attention_parts), (Upsample2D, upsampling_conv)):
        assert all((parts(module) is not None) == isinstance(module, kind) for module in modules)


def test_the_final_activation_is_there() -> None:
    model = stock("stable diffusion")
    for side in (model.encoder, model.decoder):
        assert isinstance(getattr(side, FINAL_ACTIVATION), nn.SiLU)


def test_a_block_in_training_has_no_parts() -> None:
    for module in deepcopy(stock("stable diffusion")).train().modules():
        assert resnet_parts(module) is None
        assert attention_parts(module) is None
