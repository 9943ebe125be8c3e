"""Values that change over a run, as pure functions of the step: nothing to save, nothing to restore.

`step` counts the updates already made, so the first update sees step 0.
"""

import math

import torch

from latent_ae.config import OptimizationConfig


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
