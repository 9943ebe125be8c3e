"""One update of each side's weights from one global batch: the generator's step, then the discriminator's.

    batches --> generator_step --> autoencoder updated --> (targets, reconstructions) --> discriminator_step

Both see the same batch. The generator's step uses the discriminator with its weights detached, and the
discriminator's step gets reconstructions without graph, so that neither side's gradients reach the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latent_ae.data.loader import Batch
from latent_ae.models.bottlenecks import Bottleneck
from latent_ae.training.distributed import gather_from_processes, sum_tensors_over_processes
from latent_ae.training.gan.discriminator_side import NOTHING_DUE, Adversary
from latent_ae.training.noise import Draws
from latent_ae.training.objective import Terms, Weights, weighted_sum
from latent_ae.training.skip_guard import GradientGuard, NonFiniteError

Pair = tuple[Tensor, Tensor]
"""target and reconstruction of a micro-batch, [B, C, H, W] each, without graph"""


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
    """False where the guard skipped the update, in fp16 also because a scaled gradient overflowed"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """over the global batch, float64 on the CPU: the bottleneck's sums, and the last layer's mean gradients if due"""
    candidates: list[tuple[int, Tensor]] = field(default_factory=list)
    """of this process's micro-batches: number of the first sample, `BottleneckOutput.candidates`"""
    pairs: list[Pair] = field(default_factory=list)
    """of this process's micro-batches, for the discriminator; empty unless it is due"""


def generator_step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    *,
    step: int,
    draws: Draws,
    weights: Weights,
    guard: GradientGuard,
    max_grad_norm: float | None,
    adversary: Adversary | None = None,
    channels_last: bool = False,
) -> StepResult:
    """Forward and backward through the prepared objective for each micro-batch, then one update.

    Raises NonFiniteError on all processes, with the weights untouched, if the loss of any process or the gradient norm
    is not finite and the guard has no patience left. In fp16 a gradient that overflows only skips the update, as long
    as a lower loss scale may help.
    """
    due = NOTHING_DUE if adversary is None else adversary.due(step)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    transform = draws.transform(step)
    totals = _Totals(len(batches))
    candidates: list[tuple[int, Tensor]] = []
    pairs: list[Pair] = []
    for batch in batches:
        pixels = batch.pixels.to(accelerator.device, memory_format=memory_format, non_blocking=True)
        noise = draws.noise(batch.numbers, pixels.shape, accelerator.device)
        with accelerator.accumulate(objective):
            terms: Terms = objective(
                pixels,
                noise,
                capacity=weights.capacity,
                latent_noise=draws.on_latents(batch.numbers, pixels.shape, accelerator.device),
                transform=transform,
            )
            losses = dict(terms.losses)
            if adversary is not None and (due.generator or due.measure_adaptive_weight):
                adversarial = adversary.generator_term(terms.reconstruction)
                if due.measure_adaptive_weight:
                    totals.add(adversary.last_layer_gradients(weighted_sum(losses, weights), adversarial))
                if due.generator:
                    losses["adversarial"] = adversarial
            loss = weighted_sum(losses, weights)
            accelerator.backward(loss)
        totals.add({"loss": loss, **losses, **terms.stats})
        totals.add({f"bottleneck.{name}": value for name, value in terms.sums.items()}, mean=False)
        totals.watch(loss, batch.sample_ids)
        if terms.candidates is not None:
            candidates.append((batch.numbers[0], terms.candidates))
        if due.discriminator:
            pairs.append((terms.target, terms.reconstruction.detach()))
    gradient_norm = accelerator.clip_grad_norm_(_trained(objective), max_grad_norm or math.inf)
    assert gradient_norm is not None
    sums = totals.over_processes(accelerator)
    updated = guard.allows(
        float(gradient_norm),
        lost=bool(sums.pop("lost")),
        scaled=accelerator.scaler is not None,
        sample_ids=lambda: _ids_of(totals.lost_ids(), batches, accelerator),
    )
    if updated:
        optimizer.step()
    elif accelerator.scaler is not None:
        accelerator.scaler.update()  # it has unscaled, and would refuse to do so again
    optimizer.zero_grad()
    _check_scale(accelerator.scaler, float(gradient_norm), lambda: _ids_of([], batches, accelerator))
    return StepResult(
        loss=float(sums["loss"]),
        losses={name: float(sums[name]) for name in losses},
        stats={name: float(sums[name]) for name in terms.stats},
        grad_norm=float(gradient_norm),
        updated=updated,
        sums={name: value for name, value in sums.items() if "." in name},
        candidates=candidates,
        pairs=pairs,
    )


def discriminator_step(
    accelerator: Accelerator,
    adversary: Adversary,
    pairs: Sequence[Pair],
    *,
    guard: GradientGuard,
    max_grad_norm: float | None,
) -> StepResult:
    """Forward and backward through the prepared discriminator for each micro-batch, then one update of it alone.

    It has its own fp16 scaler. A non-finite or spiking gradient norm skips the update as in the generator's step.
    """
    totals = _Totals(len(pairs))
    for number, (target, reconstruction) in enumerate(pairs):
        with adversary.synchronised(accelerator, last=number == len(pairs) - 1):
            terms = adversary.prepared(target, reconstruction, adversary.weights["r1"] > 0)
            loss = adversary.weighted_sum(terms.losses)
            adversary.scaler.scale(loss / len(pairs)).backward()
        totals.add({"loss": loss, **terms.losses, **terms.stats})
        totals.watch(loss, [])
    adversary.scaler.unscale_(adversary.optimizer)
    norm = float(nn.utils.clip_grad_norm_(_trained(adversary.prepared), max_grad_norm or math.inf))
    sums = totals.over_processes(accelerator)
    updated = guard.allows(
        norm,
        lost=bool(sums.pop("lost")),
        scaled=adversary.scaler.is_enabled(),
        sample_ids=list,
        whose="discriminator's ",
    )
    if updated:
        adversary.scaler.step(adversary.optimizer)
    adversary.scaler.update()
    adversary.optimizer.zero_grad()
    _check_scale(adversary.scaler, norm, list, whose="discriminator's ")
    result = StepResult(
        loss=float(sums["loss"]),
        losses={name: float(sums[name]) for name in terms.losses},
        stats={name: float(sums[name]) for name in terms.stats},
        grad_norm=norm,
        updated=updated,
    )
    if updated:
        adversary.after_update(result.stats)
    return result


def update_bottleneck(
    accelerator: Accelerator, bottleneck: Bottleneck, result: StepResult, *, seed: int
) -> dict[str, float]:
    """Move the bottleneck's own state (a codebook's averages, unused codes) after an update; what to log about it."""
    device = accelerator.device
    sums = {
        name.removeprefix("bottleneck."): value.to(device)
        for name, value in result.sums.items()
        if name.startswith("bottleneck.")
    }
    candidates = None
    if bottleneck.wants_candidates():
        gathered = gather_from_processes([(n, values.cpu()) for n, values in result.candidates], accelerator)
        in_order = sorted((piece for part in gathered for piece in part), key=lambda piece: piece[0])
        candidates = torch.cat([values.flatten(0, 1) for _, values in in_order]).to(device)
    return bottleneck.after_update(sums, candidates, seed=seed)


class _Totals:
    """What the micro-batches of an update add up to, in float64."""

    def __init__(self, micro_batches: int) -> None:
        self.means: set[str] = set()
        """names of what is averaged; all else is summed"""
        self._watched: list[tuple[Tensor, Sequence[str]]] = []
        self._micro_batches = micro_batches
        self._values: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor], *, mean: bool = True) -> None:
        """Add a micro-batch's values, each by its name."""
        for name, value in values.items():
            share = value.detach().double() / self._micro_batches if mean else value.detach().double()
            self._values[name] = self._values[name] + share if name in self._values else share
            if mean:
                self.means.add(name)

    def watch(self, loss: Tensor, sample_ids: Sequence[str]) -> None:
        """Note whether a micro-batch's loss is finite, without waiting for the device."""
        self._watched.append((torch.isfinite(loss.detach()), sample_ids))

    def lost_ids(self) -> list[str]:
        """Samples of the micro-batches whose loss was not finite."""
        return [name for finite, sample_ids in self._watched if not finite for name in sample_ids]

    def over_processes(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Means and sums over the global batch, and under `lost` in how many micro-batches the loss was not finite."""
        lost = torch.stack([~finite for finite, _ in self._watched]).sum().double()
        sums = sum_tensors_over_processes({**self._values, "lost": lost}, accelerator)
        return {
            name: value / accelerator.num_processes if name in self.means else value for name, value in sums.items()
        }


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _check_scale(
    scaler: torch.amp.GradScaler | None, norm: float, sample_ids: Callable[[], list[str]], *, whose: str = ""
) -> None:
    """Raises NonFiniteError where gradients overflow in fp16 though nothing is left of the loss scale to lower."""
    if scaler is not None and scaler.is_enabled() and not math.isfinite(norm) and scaler.get_scale() < 1.0:
        problem = f"the {whose}fp16 gradients overflow at every loss scale"
        raise NonFiniteError(f"{problem}; use bf16 or no mixed precision", sample_ids())


def _ids_of(lost: list[str], batches: Sequence[Batch], accelerator: Accelerator) -> list[str]:
    """Ids of the samples with a non-finite loss on any process; of all where only the gradient is."""
    gathered = [name for part in gather_from_processes(lost, accelerator) for name in part]
    if gathered:
        return gathered
    every = [name for batch in batches for name in batch.sample_ids]
    return [name for part in gather_from_processes(every, accelerator) for name in part]
