"""Values that change over a run, as pure functions of the step: nothing to save, nothing to restore.

`step` counts the updates already made, so the first update sees step 0.
"""

import math

import torch

from latent_ae.config import LossConfig, OptimizationConfig


def learning_rate_at(step: int, config: OptimizationConfig) -> float:
    """Linear warm-up to the peak, then constant, or down to the final share of it at the run's last update."""
    return config.learning_rate * learning_rate_share_at(step, config)


def learning_rate_share_at(step: int, config: OptimizationConfig) -> float:
    """The learning rate of an update as a share of the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    match config.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - progress
        case "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    floor = config.final_learning_rate_share
    return floor + (1.0 - floor) * max(0.0, share)


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give every group of parameters its share of its own `peak`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def beta_at(step: int, config: LossConfig) -> float:
    """The KL weight of an update.

    linear: beta * step / warmup_steps, until beta is reached. cyclical: within each cycle of M steps the weight rises
    from 0 to beta over the first half and stays there for the second (Fu et al. 2019, eq. 6 with R = 0.5).
    """
    beta = config.beta or 0.0
    match config.beta_schedule:
        case "constant":
            return beta
        case "linear":
            return beta * min(1.0, step / config.beta_warmup_steps)
        case "cyclical":
            place = (step % config.beta_cycle_steps) / config.beta_cycle_steps
            return beta * min(1.0, 2.0 * place)


def capacity_at(step: int, config: LossConfig) -> float | None:
    """The KL target C in nats per image of an update, rising linearly from 0 (Burgess et al. 2018, eq. 8)."""
    if config.capacity is None:
        return None
    return config.capacity * (min(1.0, step / config.capacity_steps) if config.capacity_steps else 1.0)


def beta_conventions(beta: float, pixel_values: int, latent_values: int) -> str:
    """What a beta is called elsewhere, for one image size, as one printable line.

    Args:
        beta: weight of KL_nats / (C*H*W) against a reconstruction that is a mean over pixel values.
        pixel_values: C*H*W of a training image.
        latent_values: c*h*w of its latents.
    """
    return (
        f"beta {beta:g} here is kl_weight {beta:g} in LDM (sums over pixels and latents), "
        f"{beta / pixel_values:.3g} against a mean reconstruction and a summed KL, "
        f"{beta * latent_values / pixel_values:.3g} against means of both"
    )
