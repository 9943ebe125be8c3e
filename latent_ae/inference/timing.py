"""How long a side of a model takes on an image, by what it takes on a small one. Decides no result."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from latent_ae.inference.diffusers_internals import attends_alone
from latent_ae.inference.fused import FusedAttention
from latent_ae.inference.sides import Side

_GRID = 32
"""positions a side of what attention is timed on"""


@dataclass(frozen=True)
class Pace:
    """Seconds that a side takes: convolutions grow with the pixels, attention with their square."""

    per_pixel: float
    per_pair: float = 0.0
    """of attention, for each pair of pixels"""
    attended: int | None = None
    """pixels of a tile, which attention does not look beyond; None: it sees the whole image"""

    def seconds(self, pixels: int) -> float:
        """For an image of so many pixels."""
        return self.per_pixel * pixels + self.attention_seconds(pixels)

    def attention_seconds(self, pixels: int) -> float:
        """What attention takes of them."""
        return self.per_pair * pixels * min(pixels, self.attended or pixels)

    def times(self, factor: float) -> "Pace":
        """That of a side that takes so many times as long."""
        return Pace(factor * self.per_pixel, factor * self.per_pair, self.attended)


def measure_pace(side: Side, inputs: Tensor, pixels: int, *, attended: int | None) -> Pace:
    """By the better of two runs each, of the side on small inputs [1,...] of an image of `pixels`, and of attention."""
    shapes: dict[nn.Module, torch.Size] = {}

    def note(module: nn.Module, given: tuple[Tensor, ...], _outputs: Tensor) -> None:
        shapes[module] = given[0].shape

    attention = [each for each in side.module.modules() if isinstance(each, FusedAttention) or attends_alone(each)]
    hooks = [each.register_forward_hook(note) for each in attention]
    try:
        seconds = _better_of_two(lambda: side(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    per_pair = 0.0
    for module, (_, channels, height, width) in shapes.items():
        values = torch.zeros(1, channels, _GRID, _GRID, dtype=side.form.dtype, device=side.device)
        taken = _better_of_two(partial(module, values))
        # Of N positions the products with the weights are 4 N C C, those of pairs 2 N N C.
        places = _GRID**2
        per_pair += taken / (places * (places + 2 * channels)) * (height * width / pixels) ** 2
    return Pace(seconds / pixels, per_pair, attended)


def _better_of_two(run: Callable[[], Tensor]) -> float:
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        run().cpu()  # which waits for an accelerator
        taken.append(time.perf_counter() - start)
    return min(taken)


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
