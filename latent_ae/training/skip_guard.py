"""When an update must not be made: a loss or gradient norm that is not finite, or a gradient norm that spikes."""

import math
from collections.abc import Callable


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
