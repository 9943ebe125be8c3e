"""One update of the weights from one global batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latent_ae.data.loader import Batch
from latent_ae.randomness import sample_noise
from latent_ae.training.objective import Terms, Weights, weighted_sum
from latent_ae.training.processes import gather_from_processes, sum_over_processes


class NonFiniteError(RuntimeError):
    """A loss or gradient norm that is not a number; raised on every process, before the update."""

    def __init__(self, message: str, sample_ids: list[str]) -> None:
        super().__init__(message)
        self.sample_ids = sample_ids


@dataclass(frozen=True)
class StepResult:
    """What an update saw, as means over the global batch."""

    loss: float
    losses: dict[str, float]
    """unweighted terms"""
    stats: dict[str, float]
    grad_norm: float
    """before clipping"""
    updated: bool
    """False where fp16's scaler skipped the update because a scaled gradient overflowed"""


def train_step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    *,
    seed: int,
    latent_shape: tuple[int, int, int],
    weights: Weights,
    max_grad_norm: float | None,
    channels_last: bool = False,
) -> StepResult:
    """Forward and backward through the prepared objective for each micro-batch, then one update.

    Raises NonFiniteError on all processes, with the weights untouched, if the loss of any process or the gradient
    norm is not finite. In fp16 a gradient that overflows only skips the update, as long as a lower loss scale may help.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    totals: dict[str, Tensor] = {}
    lost: list[str] = []
    for batch in batches:
        pixels = batch.pixels.to(accelerator.device, memory_format=memory_format, non_blocking=True)
        noise = sample_noise(seed, batch.numbers[0], len(batch.numbers), latent_shape).to(accelerator.device)
        with accelerator.accumulate(objective):
            terms: Terms = objective(pixels, noise, weights.capacity)
            loss = weighted_sum(terms.losses, weights)
            accelerator.backward(loss)
        for name, value in {"loss": loss, **terms.losses, **terms.stats}.items():
            share = value.detach().double() / len(batches)
            totals[name] = totals[name] + share if name in totals else share
        if not torch.isfinite(loss.detach()):
            lost += batch.sample_ids
    gradient_norm = accelerator.clip_grad_norm_(
        [parameter for parameter in objective.parameters() if parameter.requires_grad], max_grad_norm or math.inf
    )
    assert gradient_norm is not None
    means = _check_and_average(accelerator, totals, lost, float(gradient_norm), batches)
    optimizer.step()
    optimizer.zero_grad()
    updated = not accelerator.optimizer_step_was_skipped
    if not updated and accelerator.scaler is not None and accelerator.scaler.get_scale() < 1.0:
        ids = [name for batch in batches for name in batch.sample_ids]
        raise NonFiniteError("fp16 gradients overflow at every loss scale; use bf16 or no mixed precision", ids)
    loss_names = list(terms.losses)
    return StepResult(
        loss=means["loss"],
        losses={name: means[name] for name in loss_names},
        stats={name: means[name] for name in terms.stats},
        grad_norm=float(gradient_norm),
        updated=updated,
    )


def _check_and_average(
    accelerator: Accelerator, totals: dict[str, Tensor], lost: list[str], gradient_norm: float, batches: Sequence[Batch]
) -> dict[str, float]:
    """Global means of the totals. Raises NonFiniteError on every process if anything is not finite on one."""
    # With fp16 an overflowing gradient is the loss scale's affair: the scaler skips the update and lowers the scale.
    bad_gradient = not math.isfinite(gradient_norm) and accelerator.scaler is None
    values = [float(value) for value in totals.values()]
    *sums, lost_anywhere = sum_over_processes([*values, float(len(lost))], accelerator)
    if lost_anywhere or bad_gradient:
        mine = lost or ([] if lost_anywhere else [name for batch in batches for name in batch.sample_ids])
        gathered = gather_from_processes(mine, accelerator)
        sample_ids = [name for part in gathered for name in part]
        what = "loss" if lost_anywhere else f"gradient norm ({gradient_norm})"
        raise NonFiniteError(f"the {what} is not finite; no update was made", sample_ids)
    return {name: value / accelerator.num_processes for name, value in zip(totals, sums, strict=True)}
