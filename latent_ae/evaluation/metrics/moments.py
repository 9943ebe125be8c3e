"""Mean and variance in one pass, exact over any split of the values; numbers as reports carry them."""

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations along the first axis, float64."""

    count: int
    mean: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Moments":
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    def merged(self, other: "Moments") -> "Moments":
        """Chan, Golub and LeVeque 1983: exact for any split, without the cancellation of sums of squares.

        Raises ValueError for values of another shape.
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"values must be {list(self.mean.shape)} as before, got {list(other.mean.shape)}")
        count = self.count + other.count
        delta = other.mean - self.mean
        deviations = self.deviations + other.deviations + delta.square() * (self.count * other.count / count)
        return Moments(count, self.mean + delta * (other.count / count), deviations)

    @property
    def variance(self) -> Tensor:
        return self.deviations / self.count


class Mergeable(Protocol):
    """Statistics of some images that become those of more."""

    def merged(self, other: Self) -> Self:
        """Of both."""


M = TypeVar("M", bound=Mergeable)


def merged(one: M | None, other: M | None) -> M | None:
    """Of both; None is of no image."""
    if one is None or other is None:
        return one or other
    return one.merged(other)


def rounded(value: float) -> float:
    """To 9 digits, so that the order in which shards were merged does not show."""
    return float(f"{value:.9g}")


def rounded_list(values: Tensor) -> list[float]:
    """[n] => each to 9 digits."""
    return [rounded(value) for value in values.tolist()]
