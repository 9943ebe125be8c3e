"""What a run says of itself: at its start, and a line for each logged step."""

import math

from latent_ae.data import SourceParts, StreamParts
from latent_ae.models import Autoencoder, latent_shape
from latent_ae.training.scaling import keeps_scaling, unstated_scaling
from latent_ae.training.schedules import learning_rate_at
from latent_ae.training.settings import RunConfig
from latent_ae.training.skip_guard import GradientGuard
from latent_ae.training.step import StepResult


def describe_run(config: RunConfig, parts: SourceParts, autoencoder: Autoencoder) -> str:
    """The run in a few lines: sizes, data, and what the weight of its latents' cost means elsewhere."""
    channels, side = autoencoder.config["in_channels"], config.data.resolution
    shape = latent_shape(autoencoder, side)
    every = sum(parameter.numel() for parameter in autoencoder.parameters())
    learning = sum(parameter.numel() for parameter in autoencoder.parameters() if parameter.requires_grad)
    frozen = f" ({learning:,} of them learn)" if learning < every else ""
    lines = [
        f"{config.name}: {every:,} parameters{frozen}, {channels}x{side}x{side} -> {'x'.join(map(str, shape))} latents",
        f"data: {config.data.source}, {_amount(parts)}",
    ]
    if keeps_scaling(config):
        lines.append(f"latents: those of {config.model.init_from}, whose encoder is frozen; their scale is kept")
    elif (warning := unstated_scaling(config)) is not None:
        lines.append(f"warning: {warning}")
    if (conventions := config.loss.conventions(channels * side * side, math.prod(shape))) is not None:
        lines.append(conventions)
    if (codes := autoencoder.config.get("num_vq_embeddings")) is not None:
        positions = shape[1] * shape[2]
        bits = positions * math.log2(codes)
        lines.append(
            f"codebook: {config.bottleneck.kind}, {codes:,} codes of {shape[0]} channels, {positions} an image: "
            f"{bits:g} bits, {bits / side**2:.3g} bits per pixel"
        )
    return "\n".join(lines)


def _amount(parts: SourceParts) -> str:
    if isinstance(parts, StreamParts):  # to count its images would be to read them all
        return f"{len(parts.stream):,} shards"
    left_out = f"; {parts.left_out}" if parts.left_out else ""
    return f"{len(parts.train):,} training and {len(parts.heldout):,} held-out images{left_out}"


def log_line(
    step: int, result: StepResult, config: RunConfig, guards: dict[str, GradientGuard]
) -> dict[str, float | int | None]:
    """What metrics.jsonl says about a step: every term as it was summed, with its weight where that moves."""
    line: dict[str, float | int | None] = {
        "images_seen": step * config.train.batch_size,
        "loss": result.loss,
        **result.losses,
        **result.stats,
        "lr": learning_rate_at(step - 1, config.train),
        # null: the update was skipped (fp16 by its scaler, or by the guard)
        "grad_norm": result.grad_norm if result.updated else None,
        **config.loss.logged_at(step - 1),
    }
    if config.train.max_skips_in_a_row:
        line |= {f"skipped_{side}": guard.skipped for side, guard in guards.items()}
    return line
