"""From a source's images to what is encoded, with what the index says about each."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from latent_ae.data import DataError, ImageSource, SourceParts
from latent_ae.data.source import CaptionedSource, LabelledSource
from latent_ae.data.sources.hub import HubImages
from latent_ae.data.transforms import evaluation_view
from latent_ae.io.image import BrokenImage, Color, Pixels, to_pil, to_uint8
from latent_ae.latent_dataset.manifest import LatentDatasetError, PreprocessingPart

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the upright image"""


@dataclass(frozen=True)
class View:
    """An image as it is encoded."""

    name: str
    """its source's id"""
    identity: str
    """sha256 over the whole upright image: `content_id`"""
    pixels: Pixels
    """[H,W,C]"""
    original: tuple[int, int]
    """height, width of the upright image"""
    crop: Box
    """the part of it that `pixels` shows"""
    label: int | None
    caption: str | None


@dataclass(frozen=True)
class Unusable:
    """An image that cannot be encoded."""

    name: str
    reason: str


class Images:
    """A part of a data set, or both in a row, with labels and captions where there are any. Picklable."""

    def __init__(
        self, parts: list[ImageSource], *, label_column: str | None = None, caption_column: str | None = None
    ) -> None:
        """The columns are of a hub data set. Raises DataError for one that is not there or holds something else."""
        self._parts = parts
        self._captions = [_captions(part, caption_column) for part in parts]
        self._labels, names = zip(*(_labels(part, label_column) for part in parts), strict=True)
        self.label_names: tuple[str, ...] | None = names[0]
        """of the labels 0, 1, ...; None where they have none"""
        if any(each != names[0] for each in names):
            raise DataError(f"the parts of the data set name their labels differently: {names}: encode each by itself")

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def name(self, index: int) -> str:
        """The source's id."""
        part, place = self._place(index)
        return self._parts[part].sample_id(place)

    def view(self, index: int, *, channels: int, resolution: int | None, background: Color) -> View | Unusable:
        """What is encoded of an image; arguments as of `evaluation_view`."""
        part, place = self._place(index)
        name = self._parts[part].sample_id(place)
        try:
            whole = to_uint8(self._parts[part].load(place), channels, background)
            pixels = evaluation_view(to_pil(whole), channels=channels, size=resolution, background=background)
            caption = self._captions[part](place)
            label = self._labels[part](place)
        except BrokenImage as error:
            return Unusable(name, error.reason)
        if label is not None and (isinstance(label, bool) or not isinstance(label, int)):
            raise DataError(f"{name}: its label is {label!r}, expected a whole number: give another label_column")
        if caption is not None and not isinstance(caption, str):
            raise DataError(f"{name}: its caption is {caption!r}, expected a text: give another caption_column")
        return View(
            name=name,
            identity=content_id(whole),
            pixels=pixels,
            original=(whole.shape[0], whole.shape[1]),
            crop=_shown(whole.shape[0], whole.shape[1], whole=resolution is None),
            label=None if label is not None and label < 0 else label,  # -1 is datasets' "no class"
            caption=caption,
        )

    def view_again(self, row: dict[str, Any], part: PreprocessingPart) -> View:
        """What was encoded for a row of the index. Raises LatentDatasetError if the image is not there as it was."""
        if row["source_index"] >= len(self):
            raise LatentDatasetError(f"the data set has only {len(self)} images now")
        view = self.view(
            row["source_index"], channels=part.channels, resolution=part.resolution, background=part.background
        )
        if isinstance(view, Unusable):
            raise LatentDatasetError(f"the image cannot be used any more: {view.reason}")
        if (view.name, view.identity) != (row["name"], row["id"]):
            raise LatentDatasetError("the image has changed since it was encoded")
        return view

    def _place(self, index: int) -> tuple[int, int]:
        for number, part in enumerate(self._parts):
            if index < len(part):
                return number, index
            index -= len(part)
        raise IndexError(index)


class Views(Dataset[View | Unusable | DataError]):
    """Views by index. An error is handed on: raised in a worker, it would be a stack trace."""

    def __init__(self, images: Images, *, channels: int, resolution: int | None, background: Color) -> None:
        self._images = images
        self._given: dict[str, Any] = {"channels": channels, "resolution": resolution, "background": background}

    def __getitem__(self, index: int) -> View | Unusable | DataError:
        try:
            return self._images.view(index, **self._given)
        except DataError as error:
            return error


def chosen_parts(parts: SourceParts, part: str) -> list[ImageSource]:
    """The sources that `train`, `heldout` or `all` means."""
    return {"train": [parts.train], "heldout": [parts.heldout], "all": [parts.train, parts.heldout]}[part]


def content_id(pixels: Pixels) -> str:
    """Sha256 in hex over the shape and the bytes of [H,W,C] uint8: what an image shows, however it was stored."""
    digest = hashlib.sha256("{}x{}x{}|".format(*pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def _shown(height: int, width: int, *, whole: bool) -> Box:
    """The part of an image that `evaluation_view` shows: all of it, or its largest centred square."""
    if whole:
        return 0, 0, width, height
    shorter = min(height, width)
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return left, top, left + shorter, top + shorter


def _labels(source: ImageSource, column: str | None) -> tuple[Callable[[int], Any], tuple[str, ...] | None]:
    """What gives an image's label, and the names of the labels 0, 1, ..."""
    if column is not None and isinstance(source, HubImages):
        values = source.column(column)
        return values.__getitem__, values.class_names or None
    if isinstance(source, LabelledSource):
        return source.label, source.label_names or None
    return _nothing, None


def _captions(source: ImageSource, column: str | None) -> Callable[[int], Any]:
    if column is not None and isinstance(source, HubImages):
        return source.column(column).__getitem__
    return source.caption if isinstance(source, CaptionedSource) else _nothing


def _nothing(_index: int) -> None:
    return None
