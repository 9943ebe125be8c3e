"""The layers of the stock autoencoders over an image in strips: each takes an activation and gives the next.

    x --norm1, silu, conv1--> h --norm2, silu, conv2, + x--> next x

One activation is kept at full size, of `h` as many rows as there is room for, and the others are computed twice. An
upsampled activation is kept where it is no larger than what has to be kept anyway; otherwise it is computed when it is
asked for, as what it is made of has a quarter of its positions.
"""

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from latent_ae.inference.fused import FusedAttention
from latent_ae.inference.group_sums import Sums
from latent_ae.inference.strips import (
    Added,
    Convolved,
    Downsampled,
    Normalised,
    Rows,
    Stored,
    Tick,
    Upsampled,
    completed,
    followed_by,
    keep,
    store,
)
from latent_ae.inference.winograd import WinogradConv


class Activation(NamedTuple):
    """What lies between two layers."""

    source: Rows
    stored: Stored
    """what `source` is computed from, or itself"""
    sums: Sums | None
    """for the normalisation that the next layer begins with; None where they are not known"""


class Cost(NamedTuple):
    """Of a layer."""

    height: int
    width: int
    """of its output"""
    values: int
    """of its output, where it is kept whatever is done to save memory"""
    products: int


class Wanted(NamedTuple):
    """What the rest of the side asks of a layer."""

    norm: nn.GroupNorm | None
    """that the next layer begins with"""
    room: int
    """how many values may be kept at full size at one time"""
    tick: Tick
    """called with the share of this layer's work that is done"""


class Layer(Protocol):
    """A layer; `first_norm` is the normalisation that it begins with."""

    @property
    def first_norm(self) -> nn.GroupNorm | None: ...

    def cost(self, height: int, width: int) -> Cost:
        """For an input of this size."""
        ...

    def run(self, given: Activation, wanted: Wanted) -> Activation:
        """Give the next activation, with its sums if they are wanted; nobody reads the given one again."""
        ...


class Block(NamedTuple):
    """A residual block: norm1, SiLU, conv1, norm2, SiLU, conv2, plus the input or its 1x1 convolution, divided."""

    norm1: nn.GroupNorm
    conv1: nn.Conv2d | WinogradConv
    norm2: nn.GroupNorm
    conv2: nn.Conv2d | WinogradConv
    shortcut: nn.Conv2d | None
    scale: float

    @property
    def first_norm(self) -> nn.GroupNorm:
        return self.norm1

    def cost(self, height: int, width: int) -> Cost:
        places = height * width
        products = self.conv1.weight.numel() + self.conv2.weight.numel()
        return Cost(height, width, self.conv2.out_channels * places, products * places)

    def run(self, given: Activation, wanted: Wanted) -> Activation:
        (source, stored, sums), (after, room, tick) = given, wanted
        half = lambda share: tick(share / 2)  # noqa: E731 - of the two convolutions
        room -= stored.values
        once: list[Stored] = []
        first = source
        if sums is None:
            kept, sums = keep(source, self.norm1, room, lambda _: tick(0))
            once = [kept] if kept else []
            first = completed(kept, source)
        first = Convolved(Normalised(first, self.norm1, sums), self.conv1)
        again = Convolved(Normalised(source, self.norm1, sums), self.conv1)
        kept, hidden_sums = keep(first, self.norm2, room, half, once)
        second = Convolved(Normalised(completed(kept, again), self.norm2, hidden_sums), self.conv2)
        beside = source if self.shortcut is None else followed_by(source, self.shortcut)
        read_last = [stored, *([kept] if kept else [])]
        outputs, next_sums = store(Added(second, beside, self.scale), after, half, read_last)
        return Activation(outputs, outputs, next_sums)


class Halving(NamedTuple):
    """A convolution that halves the image."""

    conv: nn.Conv2d

    @property
    def first_norm(self) -> None:
        return None

    def cost(self, height: int, width: int) -> Cost:
        height, width = height // 2, width // 2
        return Cost(height, width, 0, self.conv.weight.numel() * height * width)

    def run(self, given: Activation, wanted: Wanted) -> Activation:
        outputs, sums = store(Downsampled(given.source, self.conv), wanted.norm, wanted.tick, [given.stored])
        return Activation(outputs, outputs, sums)


class Doubling(NamedTuple):
    """Nearest upsampling with its convolution, as one kernel."""

    kernel: Tensor
    bias: Tensor | None

    @property
    def first_norm(self) -> None:
        return None

    def cost(self, height: int, width: int) -> Cost:
        return Cost(2 * height, 2 * width, 0, self.kernel.numel() * height * width)

    def run(self, given: Activation, wanted: Wanted) -> Activation:
        upsampled = Upsampled(given.source, self.kernel, self.bias)
        if upsampled.channels * upsampled.height * upsampled.width > wanted.room:
            wanted.tick(1)
            return Activation(upsampled, given.stored, None)
        outputs, sums = store(upsampled, wanted.norm, wanted.tick, [given.stored])
        return Activation(outputs, outputs, sums)


class Attended(NamedTuple):
    """Attention over all positions."""

    module: nn.Module

    @property
    def first_norm(self) -> None:
        return None

    def cost(self, height: int, width: int) -> Cost:
        channels = max(weight.shape[0] for weight in self.module.parameters())
        return Cost(height, width, 0, 2 * (height * width) ** 2 * channels)

    def run(self, given: Activation, wanted: Wanted) -> Activation:
        source, tick = given.source, wanted.tick
        inputs = (source if isinstance(source, Stored) else store(source, None, lambda _: tick(0))[0]).whole()
        if isinstance(self.module, FusedAttention):
            outputs = Stored([self.module(inputs, tick=tick)])
        else:
            outputs = Stored([self.module(inputs)])
            tick(1)
        return Activation(outputs, outputs, None)


class Final(NamedTuple):
    """Normalisation, SiLU and the last convolution, whose rows are computed when they are asked for."""

    norm: nn.GroupNorm
    conv: nn.Conv2d

    @property
    def first_norm(self) -> nn.GroupNorm:
        return self.norm

    def cost(self, height: int, width: int) -> Cost:
        return Cost(height, width, 0, self.conv.weight.numel() * height * width)

    def run(self, given: Activation, wanted: Wanted) -> Activation:
        source, stored, sums = given
        if sums is None:
            _, sums = keep(source, self.norm, 0, lambda _: wanted.tick(0))
        wanted.tick(1)
        return Activation(Convolved(Normalised(source, self.norm, sums), self.conv), stored, None)
