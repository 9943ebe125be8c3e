"""The best weights of a run so far, by a held-out measure, and when the run stops getting better.

What is best, and whether patience is over, follows from the values of the validations made so far, which a checkpoint
holds together with the weights. So a resumed run decides as one that never stopped.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor

from latent_ae.config import TrainConfig
from latent_ae.errors import UserError

HIGHER_IS_BETTER = {
    **dict.fromkeys(("psnr", "ssim", "ms_ssim"), True),
    **dict.fromkeys(("l1", "mae", "rmse", "perceptual", "rfid"), False),
}
"""the measures by which weights can be compared"""


class BestWeights:
    """The weights with the best held-out measure.

    Args:
        measure: its name in HIGHER_IS_BETTER.
        first_step: validations after fewer updates do not count.
        patience: validations without improvement after which the run is to end; None for no end.
        min_improvement: what counts as improvement for patience is more than this, in units of the measure, over the
            last value that counted. The best weights are those of the best value, by however little.
    """

    def __init__(
        self, measure: str, *, first_step: int = 0, patience: int | None = None, min_improvement: float = 0.0
    ) -> None:
        self.measure, self.first_step = measure, first_step
        self.patience, self.min_improvement = patience, min_improvement
        self.values: dict[int, float | None] = {}
        """by the update after which it was measured, in their order; None where the measure was not finite"""
        self.tensors: dict[str, Tensor] = {}
        """the best weights by name, on the CPU"""

    @classmethod
    def of(cls, train: TrainConfig) -> Self | None:
        """What a run's settings ask for; None without `train.keep_best`."""
        if train.keep_best is None:
            return None
        return cls(
            train.keep_best,
            first_step=train.keep_best_from_step,
            patience=train.patience,
            min_improvement=train.min_improvement,
        )

    def add(self, step: int, value: float | None, reason: str | None, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Note the value after an update (None with a `reason`), and take its weights if none before had a better one.

        Raises UserError if the first value is None: nothing could be compared.
        """
        if step < self.first_step:
            return
        if value is None and self.step is None:
            raise UserError(f"train.keep_best {self.measure} has no value after update {step}: {reason}")
        self.values[step] = value
        if self.step == step:
            self.tensors = weights()

    @property
    def step(self) -> int | None:
        """The update after which the weights were best, the first of equals; None before the first validation."""
        measured = {step: value for step, value in self.values.items() if value is not None}
        return max(measured, key=lambda step: self._rank(measured[step]), default=None)

    @property
    def stale(self) -> int:
        """Number of validations since the last improvement of more than `min_improvement`."""
        count, mark = 0, -math.inf
        for value in self.values.values():
            if value is not None and self._rank(value) - mark > self.min_improvement:
                count, mark = 0, self._rank(value)
            else:
                count += 1
        return count

    @property
    def over(self) -> bool:
        """Whether the run is to end here."""
        return self.patience is not None and self.stale >= self.patience

    def summary(self) -> str:
        """Which weights are kept, and what the last ones have instead."""
        step, last = self.step, max(self.values)
        assert step is not None
        kept = f"weights of update {step:,}, the best of {len(self.values)} validations by {self.measure}"
        if step == last:
            return f"{kept} ({_shown(self.values[step])}) and the last"
        return f"{kept}: {_shown(self.values[step])}, and {_shown(self.values[last])} for the last, of update {last:,}"

    def state(self) -> list[tuple[int, float | None]]:
        """JSON of the values, for a checkpoint."""
        return list(self.values.items())

    def restore(self, state: Any, tensors: Mapping[str, Tensor]) -> None:
        """Become what was saved: `state()` as JSON gives it back, and the weights."""
        self.values, self.tensors = dict(state), dict(tensors)

    def _rank(self, value: float) -> float:
        return value if HIGHER_IS_BETTER[self.measure] else -value


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
