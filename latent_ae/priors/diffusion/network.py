"""The diffusion transformer, its noise schedule and what it learns.

z are scaled latents, n noise from N(0, 1) and t a place in time, of T:

    z_t = sqrt(a_t) z + sqrt(1 - a_t) n        v = sqrt(a_t) n - sqrt(1 - a_t) z        loss = mean |f(z_t, t, y) - v|^2

(Ho et al. 2020; Salimans & Ho 2022 for v.) a_T is exactly 0, so that what is drawn begins where training ended, at pure
noise (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed"); v is defined there too.
"""

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding
from torch import nn

from latent_ae.errors import UserError

NULL_CLASS = 1000
"""the label of no class: `DiTPipeline` has this number in its code"""
TIMESTEPS = 1000


def check_classes(classes: Sequence[int]) -> None:
    """Raise UserError for labels that `DiTPipeline` has no place for."""
    if classes and max(classes) >= NULL_CLASS:
        raise UserError(
            f"the latents have the label {max(classes)}: DiTPipeline knows the classes 0 to {NULL_CLASS - 1}"
        )


def build_network(
    *, channels: int, side: int, width: int, depth: int, head_width: int, patch_size: int
) -> DiTTransformer2DModel:
    """A DiT for latents [B, channels, side, side], started so that every block passes on what it is given.

    diffusers starts a DiT as any network; adaLN-Zero (Peebles & Xie 2023, section 3.2) is that the layers that scale,
    shift and gate start at zero. Labels are never dropped inside: its blocks would each drop others.
    Raises UserError if `side` cannot be cut into patches.
    """
    if side % patch_size:
        raise UserError(
            f"network.patch_size {patch_size} does not divide the side of the latents, {side}: give a number that does"
        )
    network = DiTTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        sample_size=side,
        patch_size=patch_size,
        num_attention_heads=width // head_width,
        attention_head_dim=head_width,
        num_layers=depth,
        num_embeds_ada_norm=NULL_CLASS,
    )
    for block in network.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    for layer in (network.proj_out_1, network.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for module in network.modules():
        if isinstance(module, LabelEmbedding):
            nn.init.normal_(module.embedding_table.weight, std=0.02)
            module.dropout_prob = 0.0
    return network


def build_scheduler() -> DDIMScheduler:
    """Noise in training, and the steps in drawing."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def denoising_loss(
    network: nn.Module,
    scheduler: DDIMScheduler,
    *,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """The mean squared error of v, for scaled latents and noise [B,c,h,w], timesteps and labels [B] int64."""
    noisy = scheduler.add_noise(latents, noise, timesteps)
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    predicted = network(noisy, timestep=timesteps, class_labels=labels).sample
    loss: torch.Tensor = (predicted.float() - velocity).square().mean()
    return loss
