import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from latent_ae.training.gan.discriminator_side import AdaptiveWeight, last_layer_gradients
from latent_ae.training.gan.losses import generator_loss
from tests.conftest import make_objective
from tests.training.gan.test_losses import HINGE, images, network


def last_layer(pixels: Tensor, weight: nn.Parameter) -> tuple[Tensor, Tensor]:
    """A last layer y = weight * x under |y|^2 / 2 and a discriminator D(y) = -(3, 4) . y, as means over the batch."""
    output = weight * pixels
    reconstruction = 0.5 * output.square().sum(1).mean()
    adversarial = (output * torch.tensor([3.0, 4.0])).sum(1).mean()
    return last_layer_gradients(reconstruction, adversarial, weight)


def test_the_adaptive_weight_by_hand() -> None:
    weight, adaptive = nn.Parameter(torch.tensor([2.0, 1.0])), AdaptiveWeight(delta=5.0)
    of_reconstruction, of_adversarial = last_layer(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), weight)
    # d/dw of w^2 x^2 / 2 is w x^2: mean of (2, 1) and (8, 0). d/dw of (3, 4) . w x: mean of (3, 4) and (6, 0).
    assert of_reconstruction.tolist() == [5.0, 0.5]
    assert of_adversarial.tolist() == [4.5, 2.0]
    assert {of_reconstruction.dtype, of_adversarial.dtype} == {torch.float64}
    assert weight.grad is None
    assert adaptive.value.item() == 0.0
    adaptive.after_update(torch.tensor([6.0, 8.0]), torch.tensor([0.0, 15.0]))
    assert adaptive.value.item() == 10.0 / (15.0 + 5.0)


def test_the_adaptive_weight_does_not_depend_on_how_the_batch_is_split() -> None:
    weight, pixels = nn.Parameter(torch.tensor([2.0, 1.0])), torch.randn(8, 2)
    whole, split, ratios = AdaptiveWeight(), AdaptiveWeight(), []
    whole.after_update(*last_layer(pixels, weight))
    parts = [last_layer(part, weight) for part in pixels.split(4)]
    split.after_update(*(torch.stack(sides).mean(0) for sides in zip(*parts, strict=True)))
    torch.testing.assert_close(split.value, whole.value)
    for part in parts:
        local = AdaptiveWeight()
        local.after_update(*part)
        ratios.append(local.value.item())
    assert sum(ratios) / 2 != pytest.approx(whole.value.item(), rel=1e-2)  # which a mean of local ratios would


def test_the_adaptive_weight_is_bounded_and_survives_a_file() -> None:
    adaptive, other = AdaptiveWeight(maximum=3.0), AdaptiveWeight(maximum=3.0)
    adaptive.after_update(torch.ones(4), torch.zeros(4))
    assert adaptive.value.item() == 3.0
    other.load_state_dict(load(save(adaptive.state_dict())))
    assert torch.equal(other.value, adaptive.value)


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_an_overflow_leaves_the_adaptive_weight_as_it_was(broken: float) -> None:
    adaptive, good = AdaptiveWeight(), torch.tensor([3.0, 4.0])
    adaptive.after_update(good, good)
    before = adaptive.value.clone()
    adaptive.after_update(torch.tensor([broken, 1.0]), good)
    adaptive.after_update(good, torch.tensor([broken, 1.0]))
    assert torch.equal(adaptive.value, before)


@pytest.mark.parametrize("setting", ["maximum", "delta"])
def test_bounds_of_the_adaptive_weight_must_be_positive(setting: str) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        AdaptiveWeight(**{setting: 0.0})


def test_both_sides_of_a_real_decoder_pull_equally_hard_with_the_adaptive_weight() -> None:
    objective, module, adaptive = make_objective(perceptual=False), network(), AdaptiveWeight()
    weight, pixels = objective.model.autoencoder.decoder.conv_out.weight, images(2)
    reconstruction = objective.model(pixels, torch.zeros(2, 2, 8, 8)).reconstruction
    sides = (
        objective.reconstruction(reconstruction, pixels).mean(),
        generator_loss(module, reconstruction, HINGE).mean(),
    )
    of_reconstruction, of_adversarial = last_layer_gradients(*sides, weight)
    adaptive.after_update(of_reconstruction, of_adversarial)
    (adaptive.value * sides[1]).backward()  # the graph is still there
    assert weight.grad is not None
    assert weight.grad.norm().item() == pytest.approx(of_reconstruction.norm().item(), rel=1e-2)
