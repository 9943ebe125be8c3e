"""The interface of a source of images, and how images are held out of training."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_ae.errors import UserError
from latent_ae.io.rasters import Region
from latent_ae.io.undecoded import UndecodedImage


class DataError(UserError):
    """The images of a run cannot be opened; the message is one line that says what to do."""


class ImageSource(Protocol):
    """Images by index. Picklable, as worker processes may get a copy.

    Ids are unique within a run and belong to the image: they do not depend on the machine, on the folder's place, or on
    the order in which a disk lists files. Runs, the list of unusable images and encoded data sets rely on them.
    """

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """The image's permanent name."""
        ...

    def load(self, index: int) -> "Image.Image | NDArray[Any]":
        """The decoded, upright picture of any mode, or the numbers [H, W, C] of a file, of its own type, where the
        settings read numbers; the caller must not change it. Raises BrokenImage.
        """
        ...


@runtime_checkable
class LabelledSource(Protocol):
    """An ImageSource whose images have a class."""

    label_names: tuple[str, ...]
    """names of the labels 0, 1, ..., the same in both parts; empty without classes"""

    def label(self, index: int) -> int | None:
        """None for an image without a class."""
        ...


@runtime_checkable
class PartlyDecoded(Protocol):
    """An ImageSource that can decode a part of an image alone."""

    def load_region(self, index: int, region: Region) -> NDArray[Any] | None:
        """That part of what `load` gives; None where it would decode the whole. Raises BrokenImage."""
        ...


@runtime_checkable
class UndecodedSource(Protocol):
    """An ImageSource that can open images of which parts are decoded."""

    def open(self, index: int) -> "UndecodedImage | Image.Image | NDArray[Any]":
        """What `load` gives, not decoded yet where parts of it can be decoded alone. Raises BrokenImage."""
        ...


@runtime_checkable
class CaptionedSource(Protocol):
    """An ImageSource whose images may have a caption."""

    def caption(self, index: int) -> str | None:
        """None for an image without a caption."""
        ...


@runtime_checkable
class ColumnSource(Protocol):
    """An ImageSource whose images are rows of a table with further columns."""

    def column(self, name: str) -> "Column":
        """Another column of the images. Raises DataError if it does not exist."""
        ...


class Column(Protocol):
    """Values of a column by the index of the image."""

    class_names: tuple[str, ...]
    """names of the numbers in a column of classes; empty for other columns"""

    def __getitem__(self, index: int) -> Any: ...


@runtime_checkable
class StoredImages(Protocol):
    """An ImageSource whose images may change between two runs; their sizes show it without decoding them."""

    def stored(self) -> Iterator[tuple[str, int]]:
        """(id, size in bytes) of every image, or of every shard of a stream; -1 for an unknown size."""
        ...

    def stored_bytes(self, index: int) -> bytes:
        """An image as it is stored. Raises BrokenImage, OSError."""
        ...


@runtime_checkable
class SizedSource(Protocol):
    """An ImageSource that gives the size of an image without decoding it."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the upright image. Raises BrokenImage."""
        ...


class LeftOut(Counter[str]):
    """How many of the files and images found are in no part, by the reason."""

    def __add__(self, other: Counter[str]) -> "LeftOut":  # type: ignore[override]  # of the same class
        """Both, without reasons that count nothing."""
        return LeftOut(super().__add__(other))

    def __str__(self) -> str:
        """In a line, the most frequent reason first; "" if nothing is left out."""
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.most_common())
        return f"{self.total():,} left out: {reasons}" if reasons else ""


@dataclass(frozen=True)
class SourceParts:
    """One source in two parts that share no image. What was found is in one of them or is left out."""

    train: ImageSource
    heldout: ImageSource
    left_out: LeftOut = field(default_factory=LeftOut, kw_only=True)
    """what is in neither part"""
    unused: tuple[str, ...] = field(default=(), kw_only=True)
    """names of the splits that are in neither part, as data.train_split takes them"""
    said: tuple[str, ...] = field(default=(), kw_only=True)
    """what a person should know about how the parts were made"""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know, with what is left out, each to follow on the data."""
        return (*self.said, *([str(self.left_out)] if self.left_out else []))

    def account(self) -> str:
        """What became of all that was found, in a line."""
        images = f"{len(self.train):,} training and {len(self.heldout):,} held-out images"
        return "; ".join((images, *self.remarks))

    def for_training(self) -> Self:
        """Itself. Raises DataError if a part has no images."""
        if not len(self.train):
            raise DataError("no images to train on: all are held out; data.train_split names the split to train on")
        if not len(self.heldout):
            raise DataError("no images are held out to measure on: give data.heldout_share or data.heldout_path")
        return self


def as_picture(image: "Image.Image | NDArray[Any]") -> Image.Image:
    """A loaded image that has to be a picture. Raises TypeError."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a picture, got numbers {image.dtype} {list(image.shape)}")
    return image


def image_size(image: "Image.Image | NDArray[Any]") -> tuple[int, int]:
    """(height, width) of a loaded image."""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[0], image.shape[1])


def opener(source: ImageSource) -> "Callable[[int], UndecodedImage | Image.Image | NDArray[Any]]":
    """Opens an image of a source by its index, to take a part of it. It raises BrokenImage."""
    return source.open if isinstance(source, UndecodedSource) else source.load


def stored_size(source: ImageSource, index: int) -> tuple[int, int]:
    """(height, width) of an image of a source, decoded if need be. Raises BrokenImage."""
    return source.size(index) if isinstance(source, SizedSource) else image_size(source.load(index))


def file_size(file: Path) -> int:
    """In bytes; -1 for a file that does not exist or cannot be read."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def hash_place(sample_id: str) -> float:
    """A hash of an id in [0, 1), uniform over ids. It must never change.

    An image is held out if its hash is below the share to hold out: adding images moves no other to another part.
    """
    digest = hashlib.sha256(sample_id.encode("utf-8", "surrogateescape")).digest()  # names need not be valid UTF-8
    return int.from_bytes(digest[:6], "big") / 2**48


def split_by_hash(sample_ids: Iterable[str], share: float, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted indices of the (training, held-out) images. `what` names the data in errors. A share of 0 holds out none.

    Raises DataError if a part is empty, with a share for which it is not.
    """
    if share == 0:
        return np.arange(sum(1 for _ in sample_ids)), np.arange(0)
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
