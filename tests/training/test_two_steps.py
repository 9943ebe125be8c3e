"""An update with a discriminator or a codebook: each side is trained by its own step, and the codebook moves once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from latent_ae.models.transform import LatentTransform
from latent_ae.training.gan.losses import ADVERSARIAL, Discrimination, LeCam
from latent_ae.training.noise import Draws
from latent_ae.training.objective import Objective, weighted_sum
from latent_ae.training.update import GradientGuard, NonFiniteError, update_bottleneck
from tests.conftest import make_objective
from tests.training.tiny import PIXELS, WEIGHTS, Update, make_adversary, make_coded


@pytest.fixture(autouse=True)
def _fresh_accelerate_state() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make_game(accumulation: int = 1, **settings: Any) -> Update:
    objective = make_objective(perceptual=False)
    return Update(objective, make_adversary(objective, **settings), accumulation)


def copied(module: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in module.state_dict().values()]


def same(module: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before, strict=True))


def has_gradient(module: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in module.parameters())


def check_sides_stay_apart(change: Callable[[Update], None] = lambda _: None, accumulation: int = 1) -> None:
    """Each step moves its own side, and leaves neither a change nor a gradient on the other."""
    update = make_game(accumulation)
    change(update)
    assert update.adversary is not None
    autoencoder, discriminator = update.objective, update.adversary.module
    before, before_too = copied(autoencoder), copied(discriminator)
    result = update.generator()
    assert result.losses["adversarial"] != 0
    assert not same(autoencoder, before), "the generator's step moved nothing"
    assert same(discriminator, before_too), "the generator's step moved the discriminator"
    assert not has_gradient(discriminator), "the generator's step left a gradient on the discriminator"
    before = copied(autoencoder)
    other = update.discriminator(result)
    assert other.updated
    assert not same(discriminator, before_too), "the discriminator's step moved nothing"
    assert same(autoencoder, before), "the discriminator's step moved the autoencoder"
    assert not has_gradient(autoencoder), "the discriminator's step left a gradient on the autoencoder"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_each_step_trains_its_own_side_alone(accumulation: int) -> None:
    check_sides_stay_apart(accumulation=accumulation)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_discriminator_gets_what_the_generator_made(accumulation: int) -> None:
    update = make_game(accumulation)
    with torch.no_grad():  # with the weights before the update
        terms = update.objective(PIXELS, update.draws.noise(range(4), PIXELS.shape))
    seen: list[tuple[Tensor, ...]] = []
    assert update.adversary is not None
    update.adversary.module.register_forward_pre_hook(lambda _, given: seen.append(given[:2]))
    update.discriminator(update.generator())
    assert len(seen) == accumulation
    targets, reconstructions = (torch.cat(side) for side in zip(*seen, strict=True))
    assert torch.equal(targets, PIXELS)
    torch.testing.assert_close(reconstructions, terms.reconstruction)


def test_a_transformed_update_shows_the_discriminator_transformed_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = LatentTransform(0.5, 1)
    monkeypatch.setattr(Draws, "transform", lambda _, step: transform)
    ((target, reconstruction),) = make_game().generator().pairs
    assert target.shape == reconstruction.shape == (4, 1, 8, 8)
    assert torch.equal(target, transform.of_pixels(PIXELS, factor=2))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_discriminators_step_is_the_update_of_plain_torch(accumulation: int) -> None:
    update = make_game(accumulation)
    assert update.adversary is not None
    result = update.generator()
    target, reconstruction = (torch.cat(side) for side in zip(*result.pairs, strict=True))
    lecam = LeCam()
    lecam.after_update(0.25, -0.25)
    update.adversary.after_update({"logits_real": 0.25, "logits_fake": -0.25})
    plain = Discrimination(make_adversary(update.objective).network, ADVERSARIAL["hinge"], lecam)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, betas=(0.5, 0.9), weight_decay=0.0)
    terms = plain(target, reconstruction, penalise=True)
    loss = terms.losses["discriminator"] + 0.1 * terms.losses["lecam"] + 1.0 * terms.losses["r1"]
    loss.backward()
    optimizer.step()
    ours = update.discriminator(result)
    assert ours.loss == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(update.adversary.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    lecam.after_update(terms.stats["logits_real"].item(), terms.stats["logits_fake"].item())
    assert update.adversary.module.lecam is not None
    assert update.adversary.module.lecam.mean_real.item() == pytest.approx(lecam.mean_real.item())


def test_what_is_not_due_is_not_computed() -> None:
    update = make_game(start_step=3, warmup_steps=2)
    assert update.adversary is not None
    found = [update.generator(step) for step in range(4)]
    assert [bool(result.pairs) for result in found] == [False, True, True, True]
    assert ["adversarial" in result.losses for result in found] == [False, False, False, True]
    assert ["last_layer.adversarial" in result.sums for result in found] == [False, False, True, True]


def test_the_loss_has_the_adversarial_term_with_its_weight() -> None:
    result = make_game().generator()
    total = sum(WEIGHTS.of(name) * value for name, value in result.losses.items())
    assert set(result.losses) == {"reconstruction", "kl", "adversarial"}
    assert result.loss == pytest.approx(total, rel=1e-6)


def test_the_adaptive_weight_compares_the_whole_batchs_gradients() -> None:
    update = make_game(accumulation=2)
    assert update.adversary is not None
    assert update.adversary.adaptive is not None
    objective, adversary = update.objective, update.adversary
    terms = objective(PIXELS, update.draws.noise(range(4), PIXELS.shape))
    adversarial = adversary.generator_term(terms.reconstruction)
    sides = adversary.last_layer_gradients(weighted_sum(terms.losses, WEIGHTS), adversarial)
    result = update.generator()
    for name, expected in sides.items():
        torch.testing.assert_close(result.sums[f"last_layer.{name}"], expected, rtol=1e-4, atol=1e-8)
    adversary.after_generator_update(result.sums)
    norms = [sides[side].norm().item() for side in ("reconstruction", "adversarial")]
    assert adversary.adaptive.value.item() == pytest.approx(norms[0] / (norms[1] + 1e-4), rel=1e-4)


def test_a_spike_of_the_discriminator_leaves_it_and_its_averages_as_they_were() -> None:
    update = make_game()
    assert update.adversary is not None
    result, before = update.generator(), copied(update.adversary.module)
    guard = GradientGuard(threshold=1e-6, patience=1)
    other = update.discriminator(result, guard)
    assert not other.updated
    assert guard.skipped == 1
    assert same(update.adversary.module, before)
    assert not has_gradient(update.adversary.module)
    with pytest.raises(NonFiniteError, match=r"the discriminator's gradient norm .* in 2 updates in a row"):
        update.discriminator(result, guard)


def check_bottleneck_moves_once(objective: Objective, accumulation: int) -> None:
    """After the micro-batches of an update, once, by their sum; the next forward alone sees the change."""
    update, bottleneck = Update(objective, None, accumulation), objective.model.bottleneck
    calls: list[dict[str, Tensor]] = []
    own = bottleneck.after_update
    bottleneck.after_update = lambda sums, *more, **named: calls.append(sums) or own(sums, *more, **named)  # type: ignore[method-assign]  # counted
    with torch.no_grad():
        whole = objective(PIXELS, update.draws.noise(range(4), PIXELS.shape)).sums
    before = copied(bottleneck)
    result = update.generator()
    assert calls == []
    assert same(bottleneck, before)
    log = update_bottleneck(update.accelerator, bottleneck, result, seed=1)
    (sums,) = calls
    assert sums.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-5, atol=1e-5)
    assert sums["counts"].sum() == 4 * 8 * 8
    assert not same(bottleneck, before)
    assert set(log) == {"codebook_usage", "perplexity", "dead_codes"}


@pytest.mark.parametrize("kind", ["vq", "ema_vq", "fsq", "gumbel"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_bottleneck_moves_once_an_update_by_the_global_batch(kind: str, accumulation: int) -> None:
    options = {"entropy": True} if kind in ("vq", "ema_vq") else {}
    check_bottleneck_moves_once(make_coded(kind, **options), accumulation)


def test_candidates_arrive_in_the_order_of_their_samples() -> None:
    objective = make_coded("ema_vq", revive_below=50.0)  # nearly all codes count as dead
    bottleneck = objective.model.bottleneck
    bottleneck.usage.fill_(0.0)
    received: list[Tensor] = []
    bottleneck.after_update = lambda sums, candidates, seed: received.append(candidates) or {}  # type: ignore[method-assign]  # kept
    update = Update(objective, None, accumulation=2)
    with torch.no_grad():
        whole = objective(PIXELS, update.draws.noise(range(4), PIXELS.shape)).candidates
    result = update.generator()
    result.candidates.reverse()  # as another process may come first
    update_bottleneck(update.accelerator, bottleneck, result, seed=1)
    torch.testing.assert_close(received[0], whole.flatten(0, 1))


def test_a_skipped_update_says_so() -> None:
    update = make_game()
    before = copied(update.objective)
    result = update.generator(guard=GradientGuard(threshold=1e-6, patience=1))
    assert not result.updated
    assert same(update.objective, before)
    assert not has_gradient(update.objective)
