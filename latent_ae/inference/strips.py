"""Activations of one image that are computed in strips of rows, when they are asked for.

    Stored --Normalised--> --Convolved--> --Added--> ...        `rows(first, last)` asks for rows of what is before it
    store(rows) -> Stored, and the sums of the normalisation that comes next

What is kept at full size is what `store` writes. Tensors are [1, C, H, W] in channels-last order, where rows lie side
by side in memory.
"""

from collections.abc import Iterator
from typing import Protocol, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STRIP_BYTES = 2**22
"""of the rows that are computed at once: small enough to stay in a cache while a block's layers follow one another"""
_LEAST_ROWS = 8
"""below, the rows that neighbouring strips both compute would weigh"""
_TINY = 1e-12


class Rows(Protocol):
    """An activation [1, C, height, W]."""

    channels: int
    height: int
    width: int
    row_bytes: int
    """of the widest activation that is computed on the way"""

    def rows(self, first: int, last: int) -> Tensor:
        """Rows `first` .. `last` - 1, [1, C, last - first, W]; the caller may not change them."""
        ...


class Stored:
    """An activation at full size. `write` replaces rows from the top, and the last `halo` old ones stay readable, which
    the next strip still needs: so what a block gives takes the place of what it was given.
    """

    def __init__(self, tensor: Tensor, halo: int = 0) -> None:
        self.tensor, self.halo = tensor, halo
        self.channels, self.height, self.width = tensor.shape[1:]
        self.row_bytes = self.channels * self.width * tensor.element_size()
        self._written = 0
        self._old = tensor[:, :, :0]

    def rows(self, first: int, last: int) -> Tensor:
        if first >= self._written:
            return self.tensor[:, :, first:last]
        kept = self._old[:, :, self._old.shape[2] - (self._written - first) :]
        return torch.cat([kept, self.tensor[:, :, self._written : last]], dim=2)

    def write(self, first: int, rows: Tensor) -> None:
        last = first + rows.shape[2]
        self._old = self.rows(max(0, last - self.halo), last).clone() if self.halo else self._old
        self.tensor[:, :, first:last] = rows
        self._written = last


class Convolved:
    """A convolution with an odd kernel, stride 1 and margins of zeros that keep the size."""

    def __init__(self, source: Rows, conv: nn.Conv2d) -> None:
        self._source, self._conv = source, conv
        self._halo = conv.kernel_size[0] // 2
        self.channels, self.height, self.width = conv.out_channels, source.height, source.width
        self.row_bytes = max(source.row_bytes, self.channels * self.width * conv.weight.element_size())

    def rows(self, first: int, last: int) -> Tensor:
        top, bottom = max(first - self._halo, 0), min(last + self._halo, self.height)
        inputs = self._source.rows(top, bottom)
        margins = (top - first + self._halo, last + self._halo - bottom)
        if any(margins):
            inputs = F.pad(inputs, (0, 0, *margins))
        return F.conv2d(_in_order(inputs), self._conv.weight, self._conv.bias, padding=(0, self._halo))


class Downsampled:
    """diffusers' halving: a margin of zeros below and at the right, and a 3x3 convolution of stride 2."""

    def __init__(self, source: Rows, conv: nn.Conv2d) -> None:
        self._source, self._conv = source, conv
        self.channels, self.height, self.width = conv.out_channels, source.height // 2, source.width // 2
        self.row_bytes = 2 * source.row_bytes

    def rows(self, first: int, last: int) -> Tensor:
        bottom = min(2 * last + 1, self._source.height)
        inputs = F.pad(self._source.rows(2 * first, bottom), (0, 1, 0, 2 * last + 1 - bottom))
        return F.conv2d(_in_order(inputs), self._conv.weight, self._conv.bias, stride=2)


class Upsampled:
    """Nearest upsampling by two and a 3x3 convolution, as one transposed convolution with a kernel [C, C', 4, 4]."""

    def __init__(
        self, source: Rows, kernel: Tensor, bias: Tensor | None, shortcut: tuple[Tensor, Tensor | None] | None = None
    ) -> None:
        """`shortcut` is kernel and bias of the same followed by a 1x1 convolution."""
        self.source, self.shortcut = source, shortcut
        self._kernel, self._bias = kernel, bias
        self.channels, self.height, self.width = kernel.shape[1], 2 * source.height, 2 * source.width
        self.row_bytes = max(source.row_bytes // 2, self.channels * self.width * kernel.element_size())

    def rows(self, first: int, last: int) -> Tensor:
        top, bottom = max((first - 1) // 2, 0), min(last // 2 + 1, self.source.height)
        inputs = _in_order(self.source.rows(top, bottom))
        outputs = F.conv_transpose2d(inputs, self._kernel, self._bias, stride=2, padding=1)
        return outputs[:, :, first - 2 * top : last - 2 * top]


class Normalised:
    """Group normalisation by the sums of the whole image, and SiLU."""

    def __init__(self, source: Rows, norm: nn.GroupNorm, sums: "Sums") -> None:
        self._source, self._eps = source, norm.eps
        self.channels, self.height = source.channels, source.height
        self.width, self.row_bytes = source.width, source.row_bytes
        self._mean, self._variance = sums.by_channel()
        self._weight, self._bias = norm.weight.float(), norm.bias.float()

    def rows(self, first: int, last: int) -> Tensor:
        inputs = _in_order(self._source.rows(first, last))
        # With these means and variances it is the group normalisation, computed in float32 in one pass.
        outputs = F.batch_norm(
            inputs, self._mean, self._variance, self._weight, self._bias, training=False, eps=self._eps
        )
        return F.silu(outputs, inplace=True)


class Added:
    """The sum of two activations, divided by a number; the first is a convolution's, which nobody else reads."""

    def __init__(self, one: Rows, other: Rows, divisor: float = 1.0) -> None:
        self._one, self._other, self._divisor = one, other, divisor
        self.channels, self.height, self.width = one.channels, one.height, one.width
        self.row_bytes = max(one.row_bytes, other.row_bytes)

    def rows(self, first: int, last: int) -> Tensor:
        outputs = self._one.rows(first, last)
        outputs += self._other.rows(first, last)
        return outputs if self._divisor == 1 else outputs / self._divisor


class Partly:
    """An activation of which the first rows are stored; the others are computed again."""

    def __init__(self, source: Rows, stored: Tensor) -> None:
        self._source, self._stored, self._kept = source, stored, int(stored.shape[2])
        self.channels, self.height = source.channels, source.height
        self.width, self.row_bytes = source.width, source.row_bytes

    def rows(self, first: int, last: int) -> Tensor:
        if first >= self._kept:
            return self._source.rows(first, last)
        if last <= self._kept:
            return self._stored[:, :, first:last]
        return torch.cat([self._stored[:, :, first:], self._source.rows(self._kept, last)], dim=2)


class Sums:
    """Mean and variance of each group of channels over the whole image, added up strip by strip in float64."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        self._groups, self._channels = norm.num_groups, norm.num_channels
        self._ones = torch.ones(self._channels, device=norm.weight.device)
        self._zeros = torch.zeros_like(self._ones)
        self._count = 0
        self._sum = self._squares = torch.zeros(self._groups, dtype=torch.float64, device=norm.weight.device)

    def add(self, rows: Tensor) -> None:
        # torch's own kernel, of which the normalised values are not used. On a CPU the one for channels-last order adds
        # up value by value and loses three digits of float32, of which half precision has no use.
        values = rows.contiguous() if rows.dtype == torch.float32 else _in_order(rows)
        places = rows.shape[2] * rows.shape[3]
        _, mean, deviation = torch.native_group_norm(
            values, self._ones, self._zeros, 1, self._channels, places, self._groups, _TINY
        )
        mean, variance = mean[0].double(), deviation[0].double().pow(-2) - _TINY
        count = rows.numel() // self._groups
        self._sum = self._sum + mean * count
        self._squares = self._squares + (variance + mean * mean) * count
        self._count += count

    def by_channel(self) -> tuple[Tensor, Tensor]:
        """(mean, variance) of each channel's group, [C] float32."""
        mean = self._sum / self._count
        variance = (self._squares / self._count - mean * mean).clamp(min=0)
        width = self._channels // self._groups
        return mean.float().repeat_interleave(width), variance.float().repeat_interleave(width)


def measure(source: Rows, norm: nn.GroupNorm) -> Sums:
    """The sums of an activation of which nothing is kept, for the normalisation that comes next."""
    sums = Sums(norm)
    for _, _, rows in _computed(source):
        sums.add(rows)
    return sums


def keep(source: Rows, norm: nn.GroupNorm, count: int) -> tuple[Rows, Sums]:
    """Compute an activation and store its first `count` rows: itself, and its sums."""
    sums, stored = Sums(norm), None
    for first, last, rows in _computed(source):
        sums.add(rows)
        if first < count:
            stored = _empty_like(rows, count) if stored is None else stored
            stored[:, :, first:last] = rows[:, :, : count - first]
    return (source if stored is None else Partly(source, stored)), sums


@overload
def store(source: Rows, norm: nn.GroupNorm, into: Stored | None = None) -> tuple[Tensor, Sums]: ...
@overload
def store(source: Rows, norm: None, into: Stored | None = None) -> tuple[Tensor, None]: ...
@overload
def store(source: Rows, norm: nn.GroupNorm | None, into: Stored | None = None) -> tuple[Tensor, Sums | None]: ...
def store(source: Rows, norm: nn.GroupNorm | None, into: Stored | None = None) -> tuple[Tensor, Sums | None]:
    """Compute an activation at full size, in the place of `into` if it is given: its tensor, and its sums."""
    sums = None if norm is None else Sums(norm)
    for first, _, rows in _computed(source):
        if sums is not None:
            sums.add(rows)
        into = Stored(_empty_like(rows, source.height)) if into is None else into
        into.write(first, rows)
    assert into is not None
    return into.tensor, sums


def _computed(source: Rows) -> Iterator[tuple[int, int, Tensor]]:
    """The rows of an activation, strip by strip: first, last, rows."""
    count = max(_LEAST_ROWS, _STRIP_BYTES // source.row_bytes)
    starts = range(0, source.height, count)
    empty = False
    for number, first in enumerate(starts):
        if empty and 2 <= number < len(starts) - 2:
            continue  # memory is predicted on tensors without values, and these strips are all alike
        last = min(first + count, source.height)
        rows = source.rows(first, last)
        empty = rows.is_meta
        yield first, last, rows


def _in_order(tensor: Tensor) -> Tensor:
    """In channels-last order by its strides too, which a side of one pixel leaves open and kernels go by."""
    tensor = tensor.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = tensor.shape
    return tensor.as_strided(tensor.shape, (height * width * channels, 1, width * channels, channels))


def _empty_like(rows: Tensor, height: int) -> Tensor:
    shape = (1, rows.shape[1], height, rows.shape[3])
    return torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)
