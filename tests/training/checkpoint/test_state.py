"""A restored state goes on to the last bit as the one that was saved."""

import dataclasses
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from latent_ae.config import TrainConfig
from latent_ae.training.build import build_optimizer
from latent_ae.training.checkpoint.files import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from latent_ae.training.checkpoint.state import AutoencoderState
from latent_ae.training.objective import weighted_sum
from latent_ae.training.update import GradientGuard, update_bottleneck
from tests.conftest import make_objective
from tests.training import tiny
from tests.training.test_preflight import WEIGHTS

PIXELS = torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 1, 16, 16)


def make_state(seed_model: str = "gaussian_nll", *, channels_last: bool = True) -> AutoencoderState:
    objective = make_objective(seed_model)
    if channels_last:
        objective.to(memory_format=torch.channels_last)
    return AutoencoderState(objective, build_optimizer(objective, TrainConfig(learning_rate=1e-2)), ema_decay=0.9)


def go(state: AutoencoderState, updates: int) -> list[float]:
    losses = []
    for _ in range(updates):
        terms = state.objective(PIXELS, torch.full((2, 2, 8, 8), 0.1 * state.step))
        loss = weighted_sum(terms.losses, WEIGHTS)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.average()
        state.step += 1
        losses.append(loss.item())
    return losses


def everything(state: AutoencoderState, accelerator: Accelerator | None = None) -> dict[str, torch.Tensor]:
    checkpoint = state.checkpoint(accelerator or Accelerator(), "")
    return {
        f"{file}/{name}": tensor for file, tensors in checkpoint.tensors.items() for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("channels_last", [True, False])
def test_saved_and_restored_is_bit_for_bit_never_having_stopped(tmp_path, channels_last: bool) -> None:
    whole = make_state(channels_last=channels_last)
    curve = go(whole, 6)

    stopped = make_state(channels_last=channels_last)
    first = go(stopped, 3)
    path = write_checkpoint(tmp_path, stopped.checkpoint(Accelerator(), ""), keep=2)
    resumed = make_state(channels_last=channels_last)
    resumed.restore(read_checkpoint(path), Accelerator())
    assert resumed.step == 3
    assert first + go(resumed, 3) == curve

    ours, expected = everything(resumed), everything(whole)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    # The checkpoint covers what changes: nothing of it stood still between the two moments.
    before = {
        f"{file}/{name}": tensor
        for file, tensors in read_checkpoint(path).tensors.items()
        for name, tensor in tensors.items()
    }
    assert not any(torch.equal(before[name], expected[name]) for name in expected if "weights" in name or "ema" in name)


def test_restored_moments_have_the_memory_layout_of_their_parameters(tmp_path) -> None:
    state = make_state()
    go(state, 1)
    path = write_checkpoint(tmp_path, state.checkpoint(Accelerator(), ""), keep=2)
    restored = make_state()
    restored.restore(read_checkpoint(path), Accelerator())
    for parameter, moments in restored.optimizer.state.items():
        assert moments["exp_avg"].stride() == parameter.stride()


def test_the_averaged_is_a_copy(tmp_path) -> None:
    state = make_state()
    go(state, 2)
    averaged = state.averaged()
    assert state.ema is not None
    for shadow, parameter, present in zip(
        state.ema.shadow_params, averaged.parameters(), state.network.parameters(), strict=True
    ):
        assert torch.equal(shadow, parameter)
        assert not torch.equal(present, parameter)


def test_another_models_checkpoint_is_refused_with_both_shapes(tmp_path) -> None:
    state = make_state()
    checkpoint = state.checkpoint(Accelerator(), "")
    checkpoint.tensors["weights"]["autoencoder.decoder.conv_out.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"decoder\.conv_out\.bias is \(7,\) there and \(1,\) here"):
        make_state().restore(checkpoint, Accelerator())
    del checkpoint.tensors["weights"]["autoencoder.decoder.conv_out.bias"]
    with pytest.raises(CheckpointError, match=r"it lacks autoencoder\.decoder\.conv_out\.bias"):
        make_state().restore(checkpoint, Accelerator())


class Game:
    """A codebook with revival against a discriminator with everything on."""

    def __init__(self, kind: str = "ema_vq") -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        objective = tiny.make_coded(kind, entropy=True, revive_below=5.0)
        objective.model.bottleneck.usage.fill_(5.05)  # dead after the second update without a use
        self.update = tiny.Update(objective, tiny.make_adversary(objective), accumulation=2)
        self.state = AutoencoderState(objective, self.update.optimizer, 0.9, self.update.adversary)
        self.update.training.state = self.state

    def go(self, updates: int) -> list[dict[str, float]]:
        """As train/train.py does it."""
        update, adversary, log = self.update, self.update.adversary, []
        assert adversary is not None
        for _ in range(updates):
            terms = {**tiny.WEIGHTS.terms, "adversarial": adversary.generator_weight()}
            result = update.generator(self.state.step, dataclasses.replace(tiny.WEIGHTS, terms=terms))
            bottleneck = update.objective.model.bottleneck
            codes = update_bottleneck(update.accelerator, bottleneck, result, seed=self.state.step)
            self.state.average()
            adversary.after_generator_update(result.sums)
            other = update.discriminator(result)
            self.state.step += 1
            log.append({**result.losses, **codes, **other.losses, **other.stats})
        return log

    def checkpoint(self) -> Checkpoint:
        # Another Accelerator would share, and change, the accumulation of this one.
        return self.state.checkpoint(self.update.accelerator, "")

    def everything(self) -> dict[str, torch.Tensor]:
        return everything(self.state, self.update.accelerator)


def check_resume_with_an_adversary(folder: Path, kind: str = "ema_vq") -> None:
    """Six updates equal three, a file, and three more, in every tensor of a checkpoint and in every logged number."""
    whole = Game(kind)
    curve = whole.go(6)
    expected = whole.everything()
    assert [line["dead_codes"] > 0 for line in curve] != [False] * 6, "nothing was revived"
    stopped = Game(kind)
    first = stopped.go(3)
    path = write_checkpoint(folder, stopped.checkpoint(), keep=2)
    resumed = Game(kind)
    resumed.state.restore(read_checkpoint(path), resumed.update.accelerator)
    assert first + resumed.go(3) == curve
    ours = resumed.everything()
    assert ours.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(ours[name], expected[name])] == []


@pytest.mark.parametrize("kind", ["ema_vq", "vq"])
def test_codebook_and_adversary_go_on_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    check_resume_with_an_adversary(tmp_path, kind)


def test_a_revived_codes_average_and_moments_begin_where_it_was_put() -> None:
    objective = tiny.make_coded("vq", revive_below=0.5)
    state = AutoencoderState(objective, build_optimizer(objective, TrainConfig(learning_rate=1e-3)), ema_decay=0.9)
    bottleneck, codes = objective.model.bottleneck, objective.model.autoencoder.quantize.embedding.weight
    codes.grad = torch.ones_like(codes)
    state.optimizer.step()
    counts = {"counts": torch.ones(tiny.CODES, dtype=torch.float64)}
    for _ in range(20):  # the average's own warm-up
        bottleneck.after_update(counts, None, seed=0)
        state.average()
    with torch.no_grad():
        codes.add_(1.0)
    bottleneck.usage[3] = 0.0
    counts["counts"][3] = 0.0
    bottleneck.after_update(counts, torch.full((64, 2), 5.0), seed=0)
    state.average()
    average = state.averaged().quantize.embedding.weight
    assert average[3].tolist() == codes[3].tolist() == [5.0, 5.0]
    assert not torch.isclose(average[2], codes[2]).any(), "a code that nobody moved lost its average"
    moments = state.optimizer.state[codes]
    assert moments["exp_avg"][3].tolist() == moments["exp_avg_sq"][3].tolist() == [0.0, 0.0]
    assert (moments["exp_avg_sq"][2] > 0).all()
    # What was moved once is an ordinary code from then on.
    with torch.no_grad():
        codes[3] = 9.0
    bottleneck.after_update({"counts": torch.ones_like(counts["counts"])}, None, seed=1)
    state.average()
    assert (state.averaged().quantize.embedding.weight[3] < 9.0).all()


def test_a_checkpoint_covers_both_sides_and_what_a_codebook_remembers() -> None:
    game = Game()
    before = game.everything()
    game.go(2)
    after = game.everything()
    named = {
        "weights/bottleneck.usage",
        "weights/bottleneck.marginal",
        "weights/bottleneck.cluster_sizes",
        "weights/bottleneck.cluster_sums",
        "weights/autoencoder.quantize.embedding.weight",
        "ema/quantize.embedding.weight",
        "discriminator/discriminator.network.network.0.weight",
        "discriminator/discriminator.lecam.mean_real",
        "discriminator/discriminator.lecam.started",
        "discriminator/adaptive_weight.value",
    }
    assert named <= before.keys()
    assert [name for name in named if torch.equal(before[name], after[name])] == []
    moments = {name for name in after if name.startswith("discriminator_optimizer/")}
    assert len(moments) == 3 * len(list(game.update.adversary.network.parameters()))  # type: ignore[union-attr]  # this game has an adversary


def test_a_checkpoint_without_a_discriminator_is_refused() -> None:
    game = Game()
    checkpoint = game.checkpoint()
    del checkpoint.tensors["discriminator"]
    with pytest.raises(CheckpointError, match="belongs to another model: it lacks discriminator"):
        game.state.restore(checkpoint, game.update.accelerator)


def test_the_guards_count_goes_on() -> None:
    state, other = make_state(), make_state()
    state.guards["discriminator"].restore({"skipped": 4, "in_a_row": 1})
    other.guards = {"generator": GradientGuard(patience=3), "discriminator": GradientGuard(patience=3)}
    other.restore(state.checkpoint(Accelerator(), ""), Accelerator())
    assert other.guards["discriminator"].state() == {"skipped": 4, "in_a_row": 1}
    assert other.guards["generator"].skipped == 0
