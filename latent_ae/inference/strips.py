"""Activations of one image that are computed in strips of rows, when they are asked for.

    Stored --Normalised--> --Convolved--> --Added--> ...        `rows(first, last)` asks for rows of what is before it
    store(rows) -> Stored, and the sums of the normalisation that comes next

What is kept at full size is what `store` and `keep` write, in bands of rows that are given back as soon as nobody reads
them again. Tensors are [1, C, H, W] in channels-last order, where rows lie side by side in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_ae.inference.group_sums import Sums
from latent_ae.inference.winograd import WinogradConv

Tick = Callable[[float], None]
"""called between strips with the share of the work that is done since the last call; what it raises ends the work"""

_STRIP_BYTES = 2**22
"""of the rows that are computed at once: small enough to stay in a cache while a block's layers follow one another"""
_LEAST_ROWS = 8
"""below, the rows that neighbouring strips both compute would weigh"""
_BAND_BYTES = 2**25
"""glibc takes blocks as large as this from the system and gives them back when they are freed, whatever it has learnt;
smaller ones leave holes between what lives longer"""
_ROWS_ABOVE = 2
"""that a strip may look up from its own, in rows of whatever it is computed from"""
_MOST_BANDS = 64
"""of an activation"""


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
    """An activation, or the first rows of one, in bands."""

    def __init__(self, bands: Sequence[Tensor], of_height: int | None = None) -> None:
        """`of_height` is the activation's, if the bands are not all of it."""
        self._bands = list(bands)
        self._given_back = 0
        self.channels, self.width = bands[0].shape[1], bands[0].shape[3]
        self.height = sum(band.shape[2] for band in bands)
        self.row_bytes = self.channels * self.width * bands[0].element_size()
        self._of_height = of_height or self.height

    @property
    def values(self) -> int:
        """How many numbers it has."""
        return self.channels * self.height * self.width

    def rows(self, first: int, last: int) -> Tensor:
        found, top = [], self._given_back
        for band in self._bands:
            bottom = top + band.shape[2]
            if top < last and first < bottom:
                found.append(band[:, :, max(first - top, 0) : last - top])
            top = bottom
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def whole(self) -> Tensor:
        """All rows as one tensor."""
        return self.rows(0, self.height)

    def give_back(self, share: float) -> None:
        """Let go of the bands that nobody reads who has computed this share of an activation from the whole of it."""
        needed = int(share * self._of_height) - _ROWS_ABOVE
        while self._bands and self._given_back + self._bands[0].shape[2] <= needed:
            self._given_back += self._bands.pop(0).shape[2]


class Convolved:
    """A convolution with an odd kernel, stride 1 and margins of zeros that keep the size."""

    def __init__(self, source: Rows, conv: nn.Conv2d | WinogradConv) -> None:
        self._source, self._conv = source, conv
        self._halo = conv.kernel_size[0] // 2
        self.channels, self.height, self.width = conv.out_channels, source.height, source.width
        self.row_bytes = max(source.row_bytes, self.channels * self.width * conv.weight.element_size())

    def rows(self, first: int, last: int) -> Tensor:
        inputs = _with_margins(self._source, first - self._halo, last + self._halo)
        if isinstance(self._conv, WinogradConv):
            return self._conv.between(inputs)
        return F.conv2d(inputs, self._conv.weight, self._conv.bias, padding=(0, self._halo))


class Downsampled:
    """diffusers' halving: a margin of zeros below and at the right, and a 3x3 convolution of stride 2."""

    def __init__(self, source: Rows, conv: nn.Conv2d) -> None:
        self._source, self._conv = source, conv
        self.channels, self.height, self.width = conv.out_channels, source.height // 2, source.width // 2
        self.row_bytes = 2 * source.row_bytes

    def rows(self, first: int, last: int) -> Tensor:
        inputs = F.pad(_with_margins(self._source, 2 * first, 2 * last + 1), (0, 1))
        return F.conv2d(_in_order(inputs), self._conv.weight, self._conv.bias, stride=2)


class Upsampled:
    """Nearest upsampling by two and a 3x3 convolution, as one transposed convolution with a kernel [C, C', 4, 4]."""

    def __init__(self, source: Rows, kernel: Tensor, bias: Tensor | None) -> None:
        self.source, self.kernel, self.bias = source, kernel, bias
        self.channels, self.height, self.width = kernel.shape[1], 2 * source.height, 2 * source.width
        self.row_bytes = max(source.row_bytes // 2, self.channels * self.width * kernel.element_size())

    def rows(self, first: int, last: int) -> Tensor:
        top, bottom = (first - 1) // 2, last // 2 + 1
        inputs = _with_margins(self.source, top, bottom)
        # Of the rows that these give, one or two above and below are the neighbours': padding leaves them out.
        above, below = first - 2 * top, 2 * bottom - last
        left_out = min(above, below)
        outputs = F.conv_transpose2d(inputs, self.kernel, self.bias, stride=2, padding=(1 + left_out, 1))
        return outputs[:, :, above - left_out : above - left_out + last - first]


class Normalised:
    """Group normalisation by the sums of the whole image, and SiLU."""

    def __init__(self, source: Rows, norm: nn.GroupNorm, sums: Sums) -> None:
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
        return outputs if self._divisor == 1 else outputs.div_(self._divisor)


class Partly:
    """An activation of which the first rows are stored; the others are computed again."""

    def __init__(self, source: Rows, stored: Stored) -> None:
        self._source, self._stored, self._kept = source, stored, stored.height
        self.channels, self.height = source.channels, source.height
        self.width, self.row_bytes = source.width, source.row_bytes

    def rows(self, first: int, last: int) -> Tensor:
        if first >= self._kept:
            return self._source.rows(first, last)
        if last <= self._kept:
            return self._stored.rows(first, last)
        return torch.cat([self._stored.rows(first, self._kept), self._source.rows(self._kept, last)], dim=2)


def followed_by(source: Rows, conv: nn.Conv2d) -> Rows:
    """A 1x1 convolution of an activation; after an upsampling, as one with its own, of half as many products."""
    if not isinstance(source, Upsampled):
        return Convolved(source, conv)
    weight, dtype = conv.weight[:, :, 0, 0].double(), conv.weight.dtype
    kernel = torch.einsum("icyx,oc->ioyx", source.kernel.double(), weight).to(dtype)
    biases = [] if conv.bias is None else [conv.bias.double()]
    biases += [] if source.bias is None else [weight @ source.bias.double()]
    bias = torch.stack(biases).sum(0).to(dtype) if biases else None
    return Upsampled(source.source, kernel.contiguous(memory_format=torch.channels_last), bias)


class Bands:
    """Where rows are written one below another, up to a height."""

    def __init__(self, height: int) -> None:
        self.tensors: list[Tensor] = []
        self._left, self._free = height, 0
        self._least = -(-height // _MOST_BANDS)

    def add(self, rows: Tensor) -> None:
        """Write rows, as many as there is still place for."""
        rows = rows[:, :, : self._left]
        while height := rows.shape[2]:
            if not self._free:
                _, channels, _, width = rows.shape
                band = max(self._least, -(-_BAND_BYTES // (channels * width * rows.element_size())))
                self._free = min(self._left, band)
                self.tensors.append(rows.new_empty((1, self._free, width, channels)).permute(0, 3, 1, 2))
            count, place = min(height, self._free), self.tensors[-1].shape[2] - self._free
            self.tensors[-1][:, :, place : place + count] = rows[:, :, :count]
            self._free -= count
            self._left -= count
            rows = rows[:, :, count:]


def keep(
    source: Rows, norm: nn.GroupNorm, room: int, tick: Tick, read_last: Sequence[Stored] = ()
) -> tuple[Stored | None, Sums]:
    """Compute an activation and store its first rows, as many as `room` has place for: these, and the sums of all."""
    sums = Sums(norm)
    bands = Bands(min(source.height, max(0, room) // (source.channels * source.width)))
    for rows in _computed(source, tick, read_last):
        sums.add(rows)
        bands.add(rows)
    return (Stored(bands.tensors, source.height) if bands.tensors else None), sums


def completed(kept: Stored | None, source: Rows) -> Rows:
    """An activation of which the first rows are kept."""
    if kept is None:
        return source
    return kept if kept.height == source.height else Partly(source, kept)


def store(
    source: Rows, norm: nn.GroupNorm | None, tick: Tick, read_last: Sequence[Stored] = ()
) -> tuple[Stored, Sums | None]:
    """Compute and store an activation: it, and its sums. What is in `read_last` is given back as it is read."""
    sums, bands = None if norm is None else Sums(norm), Bands(source.height)
    for rows in _computed(source, tick, read_last):
        if sums is not None:
            sums.add(rows)
        bands.add(rows)
    return Stored(bands.tensors), sums


def _computed(source: Rows, tick: Tick, read_last: Sequence[Stored]) -> Iterator[Tensor]:
    """The rows of an activation, strip by strip; what is in `read_last` is given back as they come."""
    count = max(_LEAST_ROWS, _STRIP_BYTES // source.row_bytes)
    first = 0
    while first < source.height:
        last = min(first + count, source.height)
        rows = source.rows(first, last)
        yield rows
        tick((last - first) / source.height)
        first = last
        for each in read_last:
            each.give_back(first / source.height)
        if rows.is_meta and 2 * count <= first < source.height - 2 * count:
            # Only bytes are counted: what is between the first two strips and the last two takes as many as they do.
            end = source.height - 2 * count
            band = max(count, (end - first) // _MOST_BANDS)
            while first < end:
                yield _like(rows, min(band, end - first))
                first = min(first + band, end)
                for each in read_last:
                    each.give_back(first / source.height)
        del rows


def _like(rows: Tensor, height: int) -> Tensor:
    """Without contents, of another height."""
    return rows.new_empty((1, height, rows.shape[3], rows.shape[1])).permute(0, 3, 1, 2)


def _with_margins(source: Rows, first: int, last: int) -> Tensor:
    """Rows of an activation, zeros where they are above or below it."""
    top, bottom = max(first, 0), min(last, source.height)
    rows = source.rows(top, bottom)
    margins = (top - first, last - bottom)
    return _in_order(F.pad(rows, (0, 0, *margins)) if any(margins) else rows)


def _in_order(tensor: Tensor) -> Tensor:
    """In channels-last order by its strides too, which a side of one pixel leaves open and kernels go by."""
    tensor = tensor.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = tensor.shape
    return tensor.as_strided(tensor.shape, (height * width * channels, 1, width * channels, channels))
