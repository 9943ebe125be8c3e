"""A restored state goes on to the last bit as the one that was saved."""

import pytest
import torch
from accelerate import Accelerator

from latent_ae.config import TrainConfig
from latent_ae.training.build import build_optimizer
from latent_ae.training.checkpoints import CheckpointError, read_checkpoint, write_checkpoint
from latent_ae.training.objective import weighted_sum
from latent_ae.training.state import TrainingState
from tests.conftest import make_objective
from tests.training.test_preflight import WEIGHTS

PIXELS = torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 1, 16, 16)


def make_state(seed_model: str = "gaussian_nll", *, channels_last: bool = True) -> TrainingState:
    objective = make_objective(seed_model)
    if channels_last:
        objective.to(memory_format=torch.channels_last)
    return TrainingState(objective, build_optimizer(objective, TrainConfig(learning_rate=1e-2)), ema_decay=0.9)


def go(state: TrainingState, updates: int) -> list[float]:
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


def everything(state: TrainingState) -> dict[str, torch.Tensor]:
    checkpoint = state.checkpoint(Accelerator(), "")
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


def test_the_averaged_autoencoder_is_a_copy(tmp_path) -> None:
    state = make_state()
    go(state, 2)
    averaged = state.averaged_autoencoder()
    assert state.ema is not None
    for shadow, parameter, present in zip(
        state.ema.shadow_params, averaged.parameters(), state.autoencoder.parameters(), strict=True
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
