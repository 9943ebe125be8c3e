"""What an update of the weights adds up to, over its micro-batches and the processes, and whether it may be made."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latent_ae.models.bottlenecks import Bottleneck
from latent_ae.training.distributed import gather_from_processes, sum_tensors_over_processes
from latent_ae.training.skip_guard import GradientGuard, NonFiniteError

Pair = tuple[Tensor, Tensor]
"""target and reconstruction of a micro-batch, [B, C, H, W] each, without graph"""


@dataclass
class UpdateResult:
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
    """over the global batch, float64 on the CPU, as GROUP.NAME: what was added to other groups"""
    candidates: list[tuple[int, Tensor]] = field(default_factory=list)
    """of this process's micro-batches: number of the first sample, `BottleneckOutput.candidates`"""
    pairs: list[Pair] = field(default_factory=list)
    """of this process's micro-batches, for the discriminator; empty unless it is due"""


class Totals:
    """What the micro-batches of one update add up to, in float64."""

    def __init__(self, accelerator: Accelerator, micro_batches: int, *, side: str = "") -> None:
        """`side` is said before "loss" or "gradient norm" in messages, with a space behind it."""
        self._accelerator, self._micro_batches, self._side = accelerator, micro_batches, side
        self._values: dict[str, Tensor] = {}
        self._means: set[str] = set()
        self._watched: list[tuple[Tensor, Sequence[str]]] = []
        self._norm = 0.0

    def add(self, group: str, values: Mapping[str, Tensor], *, mean: bool = True) -> None:
        """Add a micro-batch's values: "losses", "stats", or another group, which goes to `UpdateResult.sums`."""
        for name, value in values.items():
            key = f"{group}.{name}"
            share = value.detach().double() / self._micro_batches if mean else value.detach().double()
            self._values[key] = self._values[key] + share if key in self._values else share
            if mean:
                self._means.add(key)

    def add_loss(self, loss: Tensor, sample_ids: Sequence[str] = ()) -> None:
        """Add what a micro-batch minimises; whether it is finite is asked in `result`, which waits for the device."""
        self.add("loss", {"": loss})
        self._watched.append((torch.isfinite(loss.detach()), sample_ids))

    def result(self, norm: Tensor | float | None, guard: GradientGuard, *, scaled: bool) -> UpdateResult:
        """Sum over all processes, and ask the guard whether the update may be made; for every process together.

        Args:
            norm: of the gradient of the global batch, before clipping.
            guard: of this side's gradient norm.
            scaled: whether an fp16 scaler lowers its loss scale where the norm overflows.

        Raises NonFiniteError on all processes, with the weights untouched, if the loss of any process or the gradient
        norm is not finite and the guard has no patience left.
        """
        assert norm is not None
        self._norm = float(norm)
        lost = torch.stack([~finite for finite, _ in self._watched]).sum().double()
        sums = sum_tensors_over_processes({**self._values, "lost": lost}, self._accelerator)
        for key in self._means:
            sums[key] = sums[key] / self._accelerator.num_processes
        lost_anywhere = bool(sums.pop("lost"))
        updated = guard.allows(
            self._norm, lost=lost_anywhere, scaled=scaled, sample_ids=self._sample_ids, whose=self._side
        )
        loss, losses, stats = (_take(sums, group) for group in ("loss", "losses", "stats"))
        return UpdateResult(loss[""], losses, stats, self._norm, updated, sums)

    def lower_loss_scale(self, scaler: torch.amp.GradScaler | None) -> None:
        """What fp16 needs after an update that was not made: its scaler has unscaled, and would refuse to do so again.

        Raises NonFiniteError on all processes if nothing is left of the loss scale to lower.
        """
        if scaler is None:
            return
        scaler.update()
        if scaler.is_enabled() and not math.isfinite(self._norm) and scaler.get_scale() < 1.0:
            problem = f"the {self._side}fp16 gradients overflow at every loss scale"
            raise NonFiniteError(f"{problem}; use bf16 or no mixed precision", self._sample_ids())

    def _sample_ids(self) -> list[str]:
        """Ids of the samples with a loss that is not finite on any process; of all where only the gradient is."""
        lost = self._gathered(ids for finite, ids in self._watched if not finite)
        return lost or self._gathered(ids for _, ids in self._watched)

    def _gathered(self, ids: Iterable[Sequence[str]]) -> list[str]:
        own = [name for some in ids for name in some]
        return [name for part in gather_from_processes(own, self._accelerator) for name in part]


def _take(sums: dict[str, Tensor], group: str) -> dict[str, float]:
    """Remove a group from the sums; its values by their own names."""
    keys = [key for key in sums if key.partition(".")[0] == group]
    return {key.partition(".")[2]: float(sums.pop(key)) for key in keys}


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that learn."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def update_bottleneck(
    accelerator: Accelerator, bottleneck: Bottleneck, result: UpdateResult, *, seed: int
) -> dict[str, float]:
    """Move the bottleneck's own state (a codebook's averages, unused codes) after an update; what to log about it.

    `BottleneckOutput.sums` are the group "bottleneck" of the result's sums.
    """
    device, group = accelerator.device, "bottleneck."
    sums = {name.removeprefix(group): value.to(device) for name, value in result.sums.items() if name.startswith(group)}
    candidates = None
    if bottleneck.wants_candidates():
        gathered = gather_from_processes([(n, values.cpu()) for n, values in result.candidates], accelerator)
        in_order = sorted((piece for part in gathered for piece in part), key=lambda piece: piece[0])
        candidates = torch.cat([values.flatten(0, 1) for _, values in in_order]).to(device)
    return bottleneck.after_update(sums, candidates, seed=seed)
