"""What a checkpoint holds and gives back."""

import pytest
import torch
from accelerate import Accelerator

from latent_ae.priors.diffusion import DiffusionConfig, build_network
from latent_ae.priors.state import PriorState
from latent_ae.randomness import torch_generator
from latent_ae.training.checkpoint.files import CheckpointError


def make_state(
    latents: str = "fingerprint", seed: int = 0, scaling_factor: float = 0.5, images: str = "images"
) -> PriorState:
    torch.manual_seed(seed)
    network = build_network(DiffusionConfig(width=8, depth=1, head_width=4, patch_size=2), channels=2, side=4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    bound = {"latents": latents, "images": images, "scaling_factor": scaling_factor}
    return PriorState(network, optimizer, ema_decay=0.5, **bound)


def train(state: PriorState, steps: int) -> None:
    for _ in range(steps):
        generator = torch_generator(0, "test", state.step)
        latents, noise = torch.randn(2, 4, 2, 4, 4, generator=generator)
        places = torch.randint(1000, (4,), generator=generator)
        predicted = state.network(latents, timestep=places, class_labels=torch.arange(4)).sample
        (predicted - noise).square().mean().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.average()


def weights(state: PriorState) -> list[torch.Tensor]:
    return [*state.network.parameters(), *state.averaged().parameters()]


def test_a_restored_state_goes_on_to_the_last_bit() -> None:
    accelerator = Accelerator(cpu=True)
    through = make_state()
    train(through, 2)
    checkpoint = through.checkpoint(accelerator, "config")
    train(through, 2)
    restored = make_state(seed=1)
    restored.restore(checkpoint, accelerator)
    assert restored.step == 2
    train(restored, 2)
    assert all(torch.equal(one, other) for one, other in zip(weights(through), weights(restored), strict=True))


def test_the_average_follows_the_weights() -> None:
    state = make_state()
    start = state.averaged().proj_out_2.bias.clone()
    train(state, 3)
    moved, present = state.averaged().proj_out_2.bias, state.network.proj_out_2.bias
    assert not torch.equal(moved, start)
    assert not torch.equal(moved, present)
    assert not state.averaged().training


def test_other_latents_are_refused() -> None:
    accelerator = Accelerator(cpu=True)
    checkpoint = make_state("a").checkpoint(accelerator, "config")
    with pytest.raises(CheckpointError, match=r"other latents \(fingerprint a, here b\): give another --name"):
        make_state("b").restore(checkpoint, accelerator)


def test_latents_of_other_images_are_refused() -> None:
    accelerator = Accelerator(cpu=True)
    checkpoint = make_state().checkpoint(accelerator, "config")
    with pytest.raises(CheckpointError, match=r"latents of other images, .* \(fingerprint images, here others\): give"):
        make_state(images="others").restore(checkpoint, accelerator)
    del checkpoint.values["images_of_latents"]  # as earlier versions wrote it
    make_state(images="others").restore(checkpoint, accelerator)


def test_latents_times_another_number_are_refused() -> None:
    accelerator = Accelerator(cpu=True)
    checkpoint = make_state().checkpoint(accelerator, "config")
    with pytest.raises(
        CheckpointError, match=r"latents times 0.5, and .* scaling_factor is now 0.25: put the old number"
    ):
        make_state(scaling_factor=0.25).restore(checkpoint, accelerator)
    del checkpoint.values["scaling_factor"]  # as earlier versions wrote it
    make_state(scaling_factor=0.25).restore(checkpoint, accelerator)
