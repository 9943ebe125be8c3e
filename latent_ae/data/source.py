"""What a source of images is, and how images are held out of training."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_ae.errors import UserError


class DataError(UserError):
    """The images a run asks for cannot be had; the message is one line that says what to do."""


class ImageSource(Protocol):
    """Images by index. Every one is picklable, as worker processes may be given a copy.

    Ids are unique within a run and belong to the image: they never depend on the machine, on where the data lie, or
    on the order in which a disk lists them. Runs, the ledger of unreadable images and encoded data sets rely on them.
    """

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """The image's name for ever."""
        ...

    def load(self, index: int) -> Image.Image:
        """The decoded, upright image, of any mode, not to be changed by the caller. Raises BrokenImage."""
        ...


@runtime_checkable
class LabelledSource(Protocol):
    """An ImageSource that knows which class its images are of."""

    label_names: tuple[str, ...]
    """of the labels 0, 1, ..., the same in both parts; empty where there are no classes"""

    def label(self, index: int) -> int | None:
        """None for an image of no class."""
        ...


@runtime_checkable
class CaptionedSource(Protocol):
    """An ImageSource whose images may have a text beside them."""

    def caption(self, index: int) -> str | None:
        """None for an image without."""
        ...


@runtime_checkable
class ColumnSource(Protocol):
    """An ImageSource whose images are rows of a table with further columns."""

    def column(self, name: str) -> "Column":
        """What a column holds for the images. Raises DataError if there is none of that name."""
        ...


class Column(Protocol):
    """Values by the index of the image that they belong to."""

    class_names: tuple[str, ...]
    """of the numbers in a column of classes; empty for another column"""

    def __getitem__(self, index: int) -> Any: ...


@runtime_checkable
class StoredImages(Protocol):
    """An ImageSource whose images may change between two runs, and which can say so without decoding them."""

    def stored(self) -> Iterator[tuple[str, int]]:
        """(id, bytes as it is stored) of every image, or of every shard of a stream; -1 bytes where nobody knows."""
        ...

    def stored_bytes(self, index: int) -> bytes:
        """An image as it is stored. Raises BrokenImage, OSError."""
        ...


@dataclass(frozen=True)
class SourceParts:
    """One source in two parts that share no image."""

    train: ImageSource
    heldout: ImageSource
    left_out: str = field(default="", kw_only=True)
    """what was found beside the images and is not used, with numbers; '' if nothing, or if that is not known"""


def file_size(file: Path) -> int:
    """In bytes; -1 for a file that is not there or cannot be asked."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def hash_place(sample_id: str) -> float:
    """Where an id falls in [0, 1), uniform over ids and the same for ever.

    An image is held out if its place is below the share to hold out: adding images moves none from part to part.
    """
    digest = hashlib.sha256(sample_id.encode("utf-8", "surrogateescape")).digest()  # names need not be valid UTF-8
    return int.from_bytes(digest[:6], "big") / 2**48


def split_by_hash(sample_ids: Iterable[str], share: float, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the (training, held-out) images, in order. `what` names the data in errors.

    Raises DataError if either part is empty, with the share that would fill it.
    """
    places = np.fromiter((hash_place(sample_id) for sample_id in sample_ids), np.float64)
    if len(places) < 2:
        raise DataError(f"{what} holds {len(places)} images, needs two or more: one to train on and one to hold out")
    train, heldout = np.flatnonzero(places >= share), np.flatnonzero(places < share)
    if not len(heldout):
        enough = math.floor(places.min() * 1e4 + 1) / 1e4
        raise DataError(
            f"{what}: none of its {len(places)} images is held out with data.heldout_share {share:g}: raise it to "
            f"{enough:g} or add images"
        )
    if not len(train):
        enough = math.floor(places.max() * 1e4) / 1e4
        raise DataError(
            f"{what}: all of its {len(places)} images are held out with data.heldout_share {share:g}, none is left to "
            f"train on: lower it to {enough:g} or add images"
        )
    return train, heldout
