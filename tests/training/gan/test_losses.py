"""Both sides of adversarial training: values by hand, gradients that stay on their side, no trace of the split."""

import math

import pytest
import torch
from torch import Tensor, nn

from latent_ae.models.discriminator import PatchDiscriminator
from latent_ae.training.gan.losses import (
    ADVERSARIAL,
    AdversarialLoss,
    Discrimination,
    Due,
    LeCam,
    due_at,
    generator_loss,
    r1_penalty,
)
from tests.conftest import make_objective

HINGE = ADVERSARIAL["hinge"]
# Two images with a map of two logits each.
REAL = torch.tensor([[2.0, 0.5], [-1.0, 3.0]]).reshape(2, 1, 1, 2)
FAKE = torch.tensor([[0.0, -3.0], [1.0, -0.5]]).reshape(2, 1, 1, 2)


def network(seed: int = 0, width: int = 4) -> PatchDiscriminator:
    """Small, for 16x16 images, with weights large enough that logits lie on both sides of the hinge."""
    module = PatchDiscriminator(1, layers=1, width=width, seed=seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 4:
                parameter.mul_(20.0)
    return module


def images(count: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def discrimination(loss: str = "hinge") -> Discrimination:
    lecam = LeCam()
    lecam.after_update(0.25, -0.25)
    return Discrimination(network(), ADVERSARIAL[loss], lecam)


def gradients(module: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


class Linear(nn.Module):
    """D(x) = sum(weight * x) as a map of two logits, whose mean it is: D(x) - 1 and D(x) + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))

    def forward(self, pixels: Tensor) -> Tensor:
        value = (self.weight * pixels).sum(dim=(1, 2, 3))
        return torch.stack([value - 1.0, value + 1.0], dim=1)[:, None, None]


def test_hinge_by_hand() -> None:
    # Means of relu(1 - real) and relu(1 + fake): of 0, .5 and 1, 0 in the first image, of 2, 0 and 2, .5 in the second.
    assert HINGE.discriminator(REAL, FAKE).tolist() == [0.5 * (0.25 + 0.5), 0.5 * (1.0 + 1.25)]
    assert HINGE.generator(FAKE).tolist() == [1.5, -0.25]


def test_non_saturating_by_hand() -> None:
    loss = ADVERSARIAL["non_saturating"]
    # s(log 3) = 3/4: the generator pays -log 3/4, or -log 1/4 where the sign is turned.
    logits = torch.tensor([math.log(3.0), -math.log(3.0)]).reshape(2, 1, 1, 1)
    assert loss.generator(logits).tolist() == pytest.approx([math.log(4 / 3), math.log(4)])
    assert loss.discriminator(logits, logits).tolist() == pytest.approx([math.log(4 / 3) + math.log(4)] * 2)
    assert loss.discriminator(logits, -logits).tolist() == pytest.approx([2 * math.log(4 / 3), 2 * math.log(4)])


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_each_side_pulls_the_logits_its_way(name: str) -> None:
    loss, real, fake = ADVERSARIAL[name], *torch.zeros(2, 3, 1, 2, 2, requires_grad=True)
    values = loss.discriminator(real, fake)
    assert values.shape == loss.generator(fake).shape == (3,)
    for_real, for_fake = torch.autograd.grad(values.sum(), (real, fake))
    (for_generator,) = torch.autograd.grad(loss.generator(fake).sum(), fake)
    # Minimising raises what has a negative gradient.
    assert for_real.max() < 0 < for_fake.min()
    assert for_generator.max() < 0


def test_r1_by_hand_and_through_to_the_parameters() -> None:
    linear, pixels = Linear(), torch.rand(3, 1, 2, 2, requires_grad=True)
    penalty = r1_penalty(linear(pixels), pixels)
    assert penalty.tolist() == pytest.approx([1.0 + 4.0 + 0.25] * 3)
    (gradient,) = torch.autograd.grad(penalty.mean(), linear.weight)
    torch.testing.assert_close(gradient, 2.0 * linear.weight)


def test_the_second_backward_of_r1_is_that_of_finite_differences() -> None:
    module, pixels = network().double(), images(2).double().requires_grad_()
    kernels = {name: parameter for name, parameter in module.named_parameters() if parameter.dim() == 4}
    directions = {name: torch.randn_like(parameter) for name, parameter in kernels.items()}

    def penalty(shift: float) -> Tensor:
        moved = {name: kernels[name] + shift * direction for name, direction in directions.items()}
        return r1_penalty(torch.func.functional_call(module, moved, (pixels,)), pixels).sum()

    penalty(0.0).backward()
    derivative = sum((kernels[name].grad * direction).sum() for name, direction in directions.items())
    # Its sums are float32, as in all losses.
    assert (penalty(1e-4) - penalty(-1e-4)).item() / 2e-4 == pytest.approx(derivative.item(), rel=5e-3)


@pytest.mark.parametrize("penalise", [False, True])
def test_the_terms_are_those_of_the_parts(penalise: bool) -> None:
    side, real, fake = discrimination(), images(seed=0), images(seed=1)
    terms = side(real, fake, penalise)
    logits_real, logits_fake = side.network(real), side.network(fake)
    assert side.lecam is not None
    expected = {
        "discriminator": HINGE.discriminator(logits_real, logits_fake).mean(),
        "lecam": side.lecam(logits_real, logits_fake).mean(),
    }
    if penalise:
        leaf = real.clone().requires_grad_()
        expected["r1"] = r1_penalty(side.network(leaf), leaf).mean()
    assert terms.losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value != 0
        torch.testing.assert_close(terms.losses[name], value)
    torch.testing.assert_close(terms.stats, {"logits_real": logits_real.mean(), "logits_fake": logits_fake.mean()})
    assert not any(value.requires_grad for value in terms.stats.values())
    assert not real.requires_grad


@pytest.mark.parametrize("loss", ADVERSARIAL)
def test_no_term_and_no_gradient_depends_on_how_the_batch_is_split(loss: str) -> None:
    real, fake = images(seed=0), images(seed=1)
    whole, split = discrimination(loss), discrimination(loss)
    terms = whole(real, fake, penalise=True)
    torch.stack(list(terms.losses.values())).sum().backward()
    parts = [split(real[part], fake[part], penalise=True) for part in (slice(4), slice(4, 8))]
    for part in parts:
        (torch.stack(list(part.losses.values())).sum() / 2).backward()
    for field in ("losses", "stats"):
        for name, value in getattr(terms, field).items():
            torch.testing.assert_close(sum(getattr(part, field)[name] for part in parts) / 2, value)
    for ours, theirs in zip(gradients(split), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_penalising_leaves_the_other_terms_and_reaches_the_parameters() -> None:
    real, fake, side = images(seed=0), images(seed=1), discrimination()
    plain, penalised = side(real, fake), side(real, fake, penalise=True)
    for name in plain.losses:
        torch.testing.assert_close(plain.losses[name], penalised.losses[name])
    kernel = side.network.get_parameter("network.0.weight")
    (of_r1,) = torch.autograd.grad(penalised.losses["r1"], kernel)
    assert of_r1.abs().max() > 0


@pytest.mark.parametrize("penalise", [False, True])
def test_losses_are_float32_under_autocast(penalise: bool) -> None:
    side = discrimination()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert side.network(images()).dtype == torch.bfloat16
        terms = side(images(seed=0), images(seed=1).bfloat16(), penalise)
        of_generator = generator_loss(side.network, images(), HINGE)
    values = [*terms.losses.values(), *terms.stats.values(), of_generator]
    assert {value.dtype for value in values} == {torch.float32}
    if penalise:  # which runs in float32 throughout
        exact = side(images(seed=0), images(seed=1).bfloat16(), penalise)
        assert torch.equal(terms.losses["r1"], exact.losses["r1"])


def test_images_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        discrimination()(images(2), images(1))


@pytest.mark.parametrize("penalise", [False, True])
def test_the_discriminators_step_does_not_touch_the_autoencoder(penalise: bool) -> None:
    model, side = make_objective(perceptual=False).model, discrimination()
    pixels = images(2)
    reconstruction = model(pixels, torch.zeros(2, 2, 8, 8)).reconstruction
    with pytest.raises(ValueError, match="pass them detached"):
        side(pixels, reconstruction, penalise)
    torch.stack(list(side(pixels, reconstruction.detach(), penalise).losses.values())).sum().backward()
    assert gradients(side)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_generators_step_does_not_touch_the_discriminator() -> None:
    model, module = make_objective(perceptual=False).model, network()
    reconstruction = model(images(2), torch.zeros(2, 2, 8, 8)).reconstruction
    loss = generator_loss(module, reconstruction, HINGE)
    assert torch.equal(loss, HINGE.generator(module(reconstruction)))
    loss.mean().backward()
    decoder = [parameter.grad for parameter in model.autoencoder.decoder.parameters()]
    assert all(gradient is not None for gradient in decoder)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def test_the_generators_gradient_does_not_depend_on_how_the_batch_is_split() -> None:
    module, reconstruction = network(), images().requires_grad_()
    (whole,) = torch.autograd.grad(generator_loss(module, reconstruction, HINGE).mean(), reconstruction)
    halves = [generator_loss(module, part, HINGE).mean() / 2 for part in reconstruction.split(4)]
    (split,) = torch.autograd.grad(halves[0] + halves[1], reconstruction)
    torch.testing.assert_close(split, whole)


@pytest.mark.parametrize(
    ("step", "adaptive", "expected"),
    [
        (6, True, Due(discriminator=False, generator=False, measure_adaptive_weight=False)),
        (7, True, Due(discriminator=True, generator=False, measure_adaptive_weight=False)),
        (8, True, Due(discriminator=True, generator=False, measure_adaptive_weight=False)),
        (9, True, Due(discriminator=True, generator=False, measure_adaptive_weight=True)),
        (10, True, Due(discriminator=True, generator=True, measure_adaptive_weight=True)),
        (9, False, Due(discriminator=True, generator=False, measure_adaptive_weight=False)),
        (10, False, Due(discriminator=True, generator=True, measure_adaptive_weight=False)),
    ],
)
def test_what_is_due_when_the_discriminator_learns_3_updates_alone(step: int, adaptive: bool, expected: Due) -> None:
    assert due_at(step, start_step=10, warmup_steps=3, adaptive=adaptive) == expected


def test_what_is_due_without_warmup_and_from_the_first_update() -> None:
    before = due_at(9, start_step=10, warmup_steps=0, adaptive=True)
    assert before == Due(discriminator=False, generator=False, measure_adaptive_weight=True)
    first = due_at(0, start_step=0, warmup_steps=0, adaptive=True)
    assert first == Due(discriminator=True, generator=True, measure_adaptive_weight=True)


def test_more_warmup_than_there_is_time_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, start_step 2\], got 3"):
        due_at(0, start_step=2, warmup_steps=3, adaptive=False)


def test_a_discriminator_learns_to_tell_two_kinds_of_images_apart() -> None:
    side = Discrimination(network(width=8), AdversarialLoss(*HINGE), LeCam())
    optimizer = torch.optim.Adam(side.parameters(), lr=1e-2)
    smooth, noisy = torch.linspace(-1, 1, 16).expand(8, 1, 16, 16), images()
    first = None
    for step in range(30):
        terms = side(smooth, noisy, penalise=step % 8 == 0)
        first = first or terms.losses["discriminator"].item()
        loss = terms.losses["discriminator"] + 0.01 * terms.losses["lecam"] + 0.01 * terms.losses.get("r1", 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        side.lecam.after_update(terms.stats["logits_real"].item(), terms.stats["logits_fake"].item())
    assert terms.losses["discriminator"].item() < 0.1 * first
    assert terms.stats["logits_real"] > 0 > terms.stats["logits_fake"]
