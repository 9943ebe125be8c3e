"""What is padding counts in no term: values by hand over the valid part alone."""

import math

import pytest
import torch

from latent_ae.models.transform import LatentTransform
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.objective import Objective, Terms, valid_pixels
from tests.conftest import make_objective

PIXELS = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
NOISE = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
FOOT = 1e-3
VALID = torch.tensor([[16, 16], [16, 6], [9, 16]])


def terms(objective: Objective, **more: torch.Tensor | LatentTransform | float) -> Terms:
    torch.manual_seed(0)
    return objective(PIXELS, NOISE, **more)  # type: ignore[no-any-return]  # a module's call is untyped


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [1.0, 0.5]),
        ("l2", [5 / 3, 0.25]),
        (
            "charbonnier",
            [(math.sqrt(1 + FOOT**2) + math.sqrt(4 + FOOT**2) - 2 * FOOT) / 3, math.sqrt(0.25 + FOOT**2) - FOOT],
        ),
        ("gaussian_nll", [5 / 6 + 0.5 * math.log(2 * math.pi), 0.125 + 0.5 * math.log(2 * math.pi)]),
    ],
)
def test_a_mean_is_over_the_valid_share(name: str, expected: list[float]) -> None:
    # Errors of the first image: 0, 1, -2 and padding; of the second: 0.5 and three of padding.
    errors = torch.tensor([[[[0.0, 1.0], [-2.0, 0.0]]], [[[0.5, 0.0], [0.0, 0.0]]]])
    values = RECONSTRUCTION[name]()(errors, torch.zeros(2, 1, 2, 2), torch.tensor([0.75, 0.25]))
    assert values.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_terms_are_those_of_the_valid_part(name: str) -> None:
    objective = make_objective(name)
    whole, found = terms(objective), terms(objective, valid=VALID)
    parts = [
        (whole.reconstruction[n : n + 1, :, :height, :width], PIXELS[n : n + 1, :, :height, :width])
        for n, (height, width) in enumerate(VALID.tolist())
    ]
    by_hand = [objective.reconstruction(*part).item() for part in parts]
    assert found.losses["reconstruction"].item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    psnr = [10 * math.log10(4 / (part.clamp(-1, 1) - target).square().mean().item()) for part, target in parts]
    assert found.stats["psnr"].item() == pytest.approx(sum(psnr) / 3, rel=1e-5)
    # The KL is of all latents, in nats for each valid pixel value.
    nats = objective.model(PIXELS, NOISE).bottleneck.losses["kl"]
    assert found.losses["kl"].item() == pytest.approx((nats / VALID.prod(dim=1)).mean().item(), rel=1e-5)


def test_the_perceptual_distance_and_an_adversary_see_the_target_in_the_padding() -> None:
    objective = make_objective()
    whole, found = terms(objective), terms(objective, valid=VALID)
    patched = whole.reconstruction.clone()
    patched[1, :, :, 6:], patched[2, :, 9:] = PIXELS[1, :, :, 6:], PIXELS[2, :, 9:]
    assert torch.equal(found.reconstruction, patched)
    assert objective.perceptual is not None
    distances = objective.perceptual(patched, PIXELS) * 256 / VALID.prod(dim=1)
    assert found.losses["perceptual"].item() == pytest.approx(distances.mean().item(), rel=1e-5)


def test_no_gradient_reaches_what_the_decoder_makes_of_the_padding() -> None:
    objective = make_objective()
    made: list[torch.Tensor] = []
    objective.model.autoencoder.decoder.conv_out.register_forward_hook(lambda *call: made.append(call[-1]))
    losses = terms(objective, valid=VALID).losses
    (gradient,) = torch.autograd.grad(losses["reconstruction"] + losses["perceptual"], made[0])
    assert not gradient[1, :, :, 6:].any()
    assert not gradient[2, :, 9:].any()
    assert gradient[0].abs().min() > 0


def test_without_padding_every_bit_is_as_before() -> None:
    objective = make_objective()
    plain, found = terms(objective), terms(objective, valid=torch.tensor([[16, 16]] * 3))
    for name in ("reconstruction", "perceptual"):
        assert torch.equal(plain.losses[name], found.losses[name])
    assert found.losses["kl"].item() == pytest.approx(plain.losses["kl"].item(), rel=1e-6)


def test_a_transform_moves_the_padding_with_the_pixels() -> None:
    valid = torch.tensor([[16, 16], [16, 8]])
    pixels = torch.zeros(2, 1, 16, 16)
    turned = valid_pixels(valid, pixels, LatentTransform(1.0, 1), 2)  # to the left: columns become rows, last first
    assert turned[0].all()
    assert torch.equal(turned[1, 0].sum(dim=1), torch.tensor([0] * 8 + [16] * 8))
    halved = valid_pixels(valid, pixels, LatentTransform(0.5, 0), 2)
    assert halved.shape == (2, 1, 8, 8)
    assert halved[0].all()
    assert halved[1, 0].sum(dim=1).unique().tolist() == [3]  # the fourth column has padding mixed in
    objective = make_objective()
    found = terms(objective, valid=VALID, transform=LatentTransform(0.5, 1))
    assert all(value.isfinite() for value in found.losses.values())
