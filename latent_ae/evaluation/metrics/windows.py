"""A large image in windows that overlap, so that its measures take the memory of a small image's."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """A part of an image and, around it, a margin that ends where the image does."""

    rows: tuple[int, int]
    """first and last + 1 of the part"""
    columns: tuple[int, int]
    outer_rows: tuple[int, int]
    """the same with the margin"""
    outer_columns: tuple[int, int]

    def of(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the part with its margin."""
        return images[..., slice(*self.outer_rows), slice(*self.outer_columns)]

    def without_margin(self, values: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
        """Values [..., h, w] that were computed of a part of an image of `size` (H, W), with one for each `stride`
        pixels a side -> those of the part alone.

        Together the windows of an image give each value once, also where there are fewer than the image's size says.
        """
        vertical, horizontal = (
            slice((inner[0] - outer[0]) // stride, None if inner[1] == whole else (inner[1] - outer[0]) // stride)
            for inner, outer, whole in (
                (self.rows, self.outer_rows, size[0]),
                (self.columns, self.outer_columns, size[1]),
            )
        )
        return values[..., vertical, horizontal]


def windows(size: tuple[int, int], *, side: int, margin: int) -> Iterator[Window]:
    """The parts of `side` pixels a side that an image of `size` (H, W) is made of, each with a `margin`.

    Where `side` and `margin` are multiples of a stride, every part begins at one with its margin.
    """
    for rows in _parts(size[0], side):
        for columns in _parts(size[1], side):
            outer = [
                (max(0, first - margin), min(whole, last + margin))
                for (first, last), whole in zip((rows, columns), size, strict=True)
            ]
            yield Window(rows, columns, *outer)


def _parts(length: int, side: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + side, length)) for first in range(0, length, side))
