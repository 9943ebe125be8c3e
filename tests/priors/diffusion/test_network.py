"""The transformer, its schedule and what it learns."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from latent_ae.errors import UserError
from latent_ae.priors.diffusion.network import (
    NULL_CLASS,
    TIMESTEPS,
    build_network,
    build_scheduler,
    check_classes,
    denoising_loss,
)
from latent_ae.randomness import torch_generator


def tiny() -> DiTTransformer2DModel:
    return build_network(channels=2, side=4, width=8, depth=2, head_width=4, patch_size=2)


def normal(*shape: int, purpose: str = "test") -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(0, purpose))


def test_it_starts_by_saying_nothing_whatever_it_is_given() -> None:
    timesteps, labels = torch.tensor([0, 999]), torch.tensor([3, NULL_CLASS])
    said = tiny()(normal(2, 2, 4, 4), timestep=timesteps, class_labels=labels).sample
    assert torch.equal(said, torch.zeros(2, 2, 4, 4))


def test_every_block_starts_as_the_identity() -> None:
    network = tiny()
    tokens = normal(1, 4, 8)
    for block in network.transformer_blocks:
        out = block(tokens, timestep=torch.tensor([500]), class_labels=torch.tensor([1]))
        assert torch.equal(out, tokens)


def test_no_label_is_dropped_inside() -> None:
    network = tiny().train()
    labels = torch.arange(200)
    embedding = network.transformer_blocks[0].norm1.emb.class_embedder
    assert torch.equal(embedding(labels), embedding.embedding_table(labels))
    assert embedding.embedding_table.num_embeddings == NULL_CLASS + 1


def test_the_last_step_is_pure_noise_and_the_first_nearly_none() -> None:
    scheduler = build_scheduler()
    latents, noise = normal(1, 2, 4, 4), normal(1, 2, 4, 4, purpose="noise")
    assert torch.equal(scheduler.add_noise(latents, noise, torch.tensor([TIMESTEPS - 1])), noise)
    first = scheduler.add_noise(latents, noise, torch.tensor([0]))
    assert (first - latents).abs().max() < 0.05


def test_the_loss_is_the_mean_squared_error_of_v() -> None:
    scheduler = build_scheduler()
    latents, noise = normal(2, 2, 4, 4), normal(2, 2, 4, 4, purpose="noise")
    timesteps = torch.tensor([100, 900])
    loss = denoising_loss(
        tiny(), scheduler, latents=latents, noise=noise, timesteps=timesteps, labels=torch.tensor([0, 1])
    )
    share = scheduler.alphas_cumprod[timesteps].view(2, 1, 1, 1)
    # The network says nothing yet, so the loss is the mean square of v = sqrt(a) n - sqrt(1 - a) z.
    expected = (share.sqrt() * noise - (1 - share).sqrt() * latents).square().mean()
    assert torch.allclose(loss, expected, rtol=1e-6)


def test_a_network_that_knows_v_draws_the_latents_it_was_shown() -> None:
    """An oracle: v of one known z for any z_t. DDIM from pure noise must end at z."""
    scheduler = build_scheduler()
    latents = normal(1, 2, 4, 4)
    drawn = normal(1, 2, 4, 4, purpose="start")
    scheduler.set_timesteps(20)
    for timestep in scheduler.timesteps:
        share = scheduler.alphas_cumprod[timestep]
        noise = (drawn - share.sqrt() * latents) / (1 - share).sqrt()
        velocity = share.sqrt() * noise - (1 - share).sqrt() * latents
        drawn = scheduler.step(velocity, timestep, drawn).prev_sample
    assert torch.allclose(drawn, latents, atol=1e-5)


def test_a_side_that_cannot_be_cut_into_patches_is_refused() -> None:
    with pytest.raises(UserError, match=r"network.patch_size 3 does not divide the side of the latents, 8: give"):
        build_network(channels=2, side=8, width=8, depth=1, head_width=4, patch_size=3)


def test_labels_that_the_pipeline_has_no_place_for_are_refused() -> None:
    check_classes(())
    check_classes((0, 999))
    with pytest.raises(UserError, match="the latents have the label 1000: DiTPipeline knows the classes 0 to 999"):
        check_classes((3, 1000))
