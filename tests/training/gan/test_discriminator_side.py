"""What the two steps ask of the discriminator's side."""

from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from latent_ae.errors import UserError
from latent_ae.models.discriminator import save_discriminator
from latent_ae.models.errors import ModelError
from latent_ae.models.parts import freeze_all_but
from latent_ae.training.build import build_adversary
from latent_ae.training.gan.losses import ADVERSARIAL, due_at, generator_loss
from latent_ae.training.settings import RunConfig
from tests.conftest import make_objective
from tests.training.tiny import PIXELS, make_adversary


def test_a_run_without_a_game_has_no_discriminator() -> None:
    assert build_adversary(make_objective().model.autoencoder, RunConfig()) is None


def test_the_settings_arrive() -> None:
    adversary = make_adversary(
        make_objective(),
        layers=2,
        width=6,
        normalization="none",
        learning_rate=3e-4,
        betas=(0.1, 0.2),
        lecam_weight=0.3,
        r1_weight=10.0,
        start_step=5,
        warmup_steps=2,
    )
    assert adversary.network.settings() == {"in_channels": 1, "layers": 2, "width": 6, "normalization": "none"}
    assert adversary.weights == {"discriminator": 1.0, "lecam": 0.3, "r1": 5.0}  # gamma / 2
    (group,) = adversary.optimizer.param_groups
    assert (group["peak"], group["betas"]) == (3e-4, (0.1, 0.2))
    assert [id(parameter) for parameter in group["params"]] == [id(p) for p in adversary.network.parameters()]
    assert [astuple(adversary.due(step)) for step in range(7)] == [
        astuple(due_at(step, start_step=5, warmup_steps=2, adaptive=True)) for step in range(7)
    ]


def test_its_learning_rate_is_the_runs_unless_given() -> None:
    assert make_adversary(make_objective()).optimizer.param_groups[0]["peak"] == 1e-3


def test_without_weight_there_are_no_averages() -> None:
    assert make_adversary(make_objective(), lecam_weight=0.0).module.lecam is None


def test_the_generators_term_is_that_of_the_game_and_trains_no_discriminator() -> None:
    adversary = make_adversary(make_objective(), loss="non_saturating")
    reconstruction = PIXELS.clone().requires_grad_()
    term = adversary.generator_term(reconstruction)
    assert torch.equal(term, generator_loss(adversary.network, PIXELS, ADVERSARIAL["non_saturating"]).mean())
    term.backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in adversary.network.parameters())


def test_the_weight_is_fixed_or_times_the_measured_one() -> None:
    fixed, measured = (make_adversary(make_objective(), weight=0.7, adaptive=adaptive) for adaptive in (False, True))
    assert fixed.generator_weight() == 0.7
    assert measured.generator_weight() == 0.0  # nothing was measured yet
    means = {
        "last_layer.reconstruction": torch.tensor([6.0, 8.0], dtype=torch.float64),
        "last_layer.adversarial": torch.tensor([0.0, 5.0], dtype=torch.float64),
    }
    for adversary in (fixed, measured):
        adversary.after_generator_update(means)
    assert fixed.generator_weight() == 0.7
    assert measured.generator_weight() == pytest.approx(0.7 * 10 / (5 + 1e-4))
    measured.after_generator_update({"bottleneck.counts": torch.ones(2)})  # an update without a measurement
    assert measured.generator_weight() == pytest.approx(0.7 * 10 / (5 + 1e-4))


def test_last_layer_gradients_are_those_of_both_sides() -> None:
    objective = make_objective(perceptual=False)
    adversary = make_adversary(objective)
    terms = objective(PIXELS, torch.zeros(4, 2, 8, 8))
    adversarial = adversary.generator_term(terms.reconstruction)
    found = adversary.last_layer_gradients(terms.losses["reconstruction"], adversarial)
    weight = objective.model.autoencoder.decoder.conv_out.weight
    for name, side in (("reconstruction", terms.losses["reconstruction"]), ("adversarial", adversarial)):
        (expected,) = torch.autograd.grad(side, weight, retain_graph=True)
        torch.testing.assert_close(found[name], expected.double(), rtol=1e-5, atol=1e-9)
    assert weight.grad is None


def test_what_it_minimises_is_every_term_times_its_weight() -> None:
    adversary = make_adversary(make_objective(), lecam_weight=0.5, r1_weight=4.0)
    losses = {"discriminator": torch.tensor(1.0), "lecam": torch.tensor(10.0), "r1": torch.tensor(100.0)}
    assert adversary.weighted_sum(losses).item() == 1.0 + 0.5 * 10.0 + 2.0 * 100.0


def test_lecams_averages_move_by_the_means_of_an_update() -> None:
    adversary = make_adversary(make_objective())
    assert adversary.module.lecam is not None
    adversary.after_update({"logits_real": 2.0, "logits_fake": -1.0})
    adversary.after_update({"logits_real": 3.0, "logits_fake": -1.0})
    assert adversary.module.lecam.mean_real.item() == pytest.approx(0.999 * 2.0 + 0.001 * 3.0)
    assert adversary.module.lecam.mean_fake.item() == -1.0
    make_adversary(make_objective(), lecam_weight=0.0).after_update({"logits_real": 2.0, "logits_fake": -1.0})


def test_its_tensors_are_the_living_ones_with_all_that_a_game_remembers() -> None:
    adversary = make_adversary(make_objective())
    tensors = adversary.tensors()
    named = {f"discriminator.network.{name}" for name, _ in adversary.network.named_parameters()}
    averages = {f"discriminator.lecam.{name}" for name in ("mean_real", "mean_fake", "started")}
    assert tensors.keys() == named | averages | {"adaptive_weight.value"}
    adversary.after_update({"logits_real": 2.0, "logits_fake": -1.0})
    assert tensors["discriminator.lecam.mean_real"].item() == 2.0
    assert {id(tensors[name]) for name in named} == {id(parameter) for parameter in adversary.network.parameters()}
    fixed = make_adversary(make_objective(), adaptive=False, lecam_weight=0.0).tensors()
    assert fixed.keys() == named


def test_it_starts_from_a_saved_one(tmp_path: Path) -> None:
    saved = make_adversary(make_objective(), width=6).network
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.add_(0.01)
    save_discriminator(tmp_path, saved)
    loaded = make_adversary(make_objective(), init_from=str(tmp_path)).network
    assert loaded.settings() == saved.settings()
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), saved.parameters(), strict=True))
    with pytest.raises(ModelError, match=r"is no discriminator: it has no config\.json"):
        make_adversary(make_objective(), init_from=str(tmp_path / "nothing"))


def test_images_smaller_than_a_logit_sees_are_refused() -> None:
    assert make_adversary(make_objective(), layers=2).network.layers == 2
    with pytest.raises(UserError, match=r"3 layers needs a data\.resolution of at least 24, got 16"):
        make_adversary(make_objective(), layers=3)


def test_a_measured_weight_needs_a_last_layer_that_learns() -> None:
    objective = make_objective()
    freeze_all_but(objective.model.autoencoder, ["encoder"])
    with pytest.raises(UserError, match=r"give adversarial\.adaptive false"):
        make_adversary(objective)
    assert make_adversary(objective, adaptive=False).generator_weight() == 0.5
