"""What an update of the weights adds up to, over its micro-batches and the processes, and whether it may be made."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latent_ae.models.bottlenecks import Bottleneck
from latent_ae.training.distributed import gather_from_processes, sum_tensors_over_processes

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


class NonFiniteError(RuntimeError):
    """A loss or gradient norm that is not a number, or too many skipped updates; raised on every process."""

    def __init__(self, message: str, sample_ids: list[str]) -> None:
        super().__init__(message)
        self.sample_ids = sample_ids


class GradientGuard:
    """Lets an update pass, skips it, or ends the run (the skipping rule is that of VDVAE, Child 2021).

    Args:
        threshold: an update with a larger gradient norm is skipped; None for no limit.
        patience: skipped updates in a row after which the run ends; 0 ends it at the first.
        setting: what the user gave the threshold as.
    """

    def __init__(
        self, *, threshold: float | None = None, patience: int = 0, setting: str = "train.skip_above_grad_norm"
    ) -> None:
        self.threshold = threshold
        self.patience = patience
        self.setting = setting
        self.skipped = 0
        """updates skipped in the whole run, without those that only sought fp16's loss scale"""
        self.in_a_row = 0
        """of them, since the last that was made"""

    def allows(
        self, norm: float, *, lost: bool, scaled: bool, sample_ids: Callable[[], list[str]], whose: str = ""
    ) -> bool:
        """Whether an update is to be made, the same on every process as its arguments are.

        Where fp16 overflows it is not, but that is how the scaler finds its loss scale, and costs no patience. It is
        decided here and not by the scaler: it has a fused optimizer skip in its kernel, which nobody is told of.

        Args:
            norm: of the gradient of the global batch, before clipping.
            lost: whether the loss is not finite on any process.
            scaled: whether an fp16 scaler lowers its loss scale where the norm overflows.
            sample_ids: called on every process, for the ids to report, if the run has to end.
            whose: said before "loss" or "gradient norm" in the message.

        Raises NonFiniteError if more than `patience` updates in a row were not to be made.
        """
        overflow = not math.isfinite(norm)
        spike = self.threshold is not None and norm > self.threshold and not overflow
        if overflow and scaled and not lost:
            return False
        if not (lost or spike or overflow):
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row <= self.patience:
            return False
        if lost or overflow:
            problem = f"the {whose}{'loss' if lost else f'gradient norm ({norm})'} is not finite"
        else:
            problem = f"the {whose}gradient norm {norm:g} is above {self.setting} {self.threshold:g}"
        row = f", as in {self.in_a_row} updates in a row" if self.patience else ""
        raise NonFiniteError(f"{problem}{row}; no update was made", sample_ids())

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, int]) -> None:
        """Become a saved state."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


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
