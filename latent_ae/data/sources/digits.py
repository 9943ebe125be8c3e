"""Scikit-learn's 1,797 handwritten digits, which need no download."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_ae.data.settings import DataConfig
from latent_ae.data.source import SourceParts

_SIDE_PIXELS = 32
_HELDOUT_EVERY = 5


class Digits:
    """Digits enlarged to 32 x 32 grey pixels.

    Attributes:
        raw: [n, 8, 8] uint8, 0..255, the digits at their own size
        labels: [n] integers 0..9
        label_names: of the ten digits
    """

    raw: NDArray[np.uint8]
    labels: NDArray[np.int64]
    label_names = tuple("0123456789")

    def __init__(self, raw: NDArray[np.uint8], labels: NDArray[np.int64], numbers: Sequence[int]) -> None:
        """`raw` and `labels` are those of all digits, `numbers` says which of them are in this part."""
        self.raw = raw[numbers]
        self.labels = labels[numbers]
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def sample_id(self, index: int) -> str:
        """`digits/` and the digit's number in scikit-learn's table."""
        return f"digits/{self._numbers[index]:04d}"

    def label(self, index: int) -> int:
        """Which digit it is."""
        return int(self.labels[index])

    def load(self, index: int) -> Image.Image:
        """32 x 32, mode L."""
        return Image.fromarray(self.raw[index]).resize((_SIDE_PIXELS, _SIDE_PIXELS), Image.Resampling.BICUBIC)


class DigitsConfig(DataConfig):
    """digits: scikit-learn's handwritten digits, 32 x 32 grey pixels, which need no download."""

    has_numbers: ClassVar[bool] = False

    source: Literal["digits"] = "digits"

    def open(self) -> SourceParts:
        """Every fifth digit is held out."""
        from sklearn.datasets import load_digits  # noqa: PLC0415 - takes seconds, and no other source needs it

        table = load_digits()
        raw = np.floor(table.images / 16 * 255 + 0.5).astype(np.uint8)  # published as 0..16
        labels = table.target.astype(np.int64)
        numbers = range(len(raw))
        heldout = [number for number in numbers if number % _HELDOUT_EVERY == _HELDOUT_EVERY - 1]
        train = [number for number in numbers if number % _HELDOUT_EVERY != _HELDOUT_EVERY - 1]
        return SourceParts(Digits(raw, labels, train), Digits(raw, labels, heldout))
