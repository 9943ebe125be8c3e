"""The images of a data source as they are encoded, with the id, label and caption that the index gives of each."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from latent_ae.config.section import size_of
from latent_ae.data import DataError, ImageSource, SourceParts
from latent_ae.data.source import CaptionedSource, ColumnSource, LabelledSource
from latent_ae.data.transforms import evaluation_view
from latent_ae.io.image import BrokenImage, Color, to_pil, to_uint8
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.latent_dataset.manifest import LatentDatasetError, PreprocessingPart

_TRIED = 20
"""images"""


class View(NamedTuple):
    """An image as it is encoded."""

    values: Array
    """[H,W,C] in the data's units"""
    row: dict[str, Any]
    """of the index, without the place of its latents: `dataset.Row`"""


class Unusable(NamedTuple):
    """An image that cannot be encoded."""

    name: str
    reason: str


class Images:
    """The part `train`, `heldout` or `all` of a data set, with labels and captions if there are any. Picklable."""

    def __init__(
        self, source: SourceParts, part: str, *, label_column: str | None = None, caption_column: str | None = None
    ) -> None:
        """The columns are those of a `ColumnSource`. Raises DataError for a missing column and an empty part."""
        parts = {"train": [source.train], "heldout": [source.heldout], "all": [source.train, source.heldout]}
        self._parts: list[ImageSource] = [each for each in parts[part] if len(each)]
        if not self._parts:
            raise DataError(f"the data set has no images in part {part}: give another --part")
        self._captions = [_captions(each, caption_column) for each in self._parts]
        self._labels, names = zip(*(_labels(each, label_column) for each in self._parts), strict=True)
        self.label_names: tuple[str, ...] | None = names[0]
        """of the labels 0, 1, ...; None where they have none"""
        if any(each != names[0] for each in names):
            raise DataError(f"the parts of the data set have different label names: {names}: encode each on its own")

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def name(self, index: int) -> str:
        """The source's id."""
        part, place = self._place(index)
        return self._parts[part].sample_id(place)

    def view(self, index: int, preprocessing: PreprocessingPart) -> View | Unusable:
        """An image as it is encoded. Raises DataError for a label or caption of another type."""
        part, place = self._place(index)
        name = self._parts[part].sample_id(place)
        pixels, resolution, background = preprocessing.pixels, preprocessing.resolution, preprocessing.background
        try:
            whole, image = _converted(self._parts[part].load(place), pixels, background)
            values = whole
            if resolution is not None:
                values = evaluation_view(
                    image,
                    pixel_format=pixels.replace(bands=()),  # which `image` has no others of
                    size=resolution,
                    background=background,
                    fitting=preprocessing.fitting,
                )
            caption = self._captions[part](place)
            label = self._labels[part](place)
        except BrokenImage as error:
            return Unusable(name, error.reason)
        if label is not None and (isinstance(label, bool) or not isinstance(label, int)):
            raise DataError(f"{name}: its label is {label!r}, expected an integer: give another label_column")
        if caption is not None and not isinstance(caption, str):
            raise DataError(f"{name}: its caption is {caption!r}, expected a string: give another caption_column")
        row = {
            "id": content_id(whole),
            "name": name,
            "source_index": index,
            "height": values.shape[0],
            "width": values.shape[1],
            "flipped": False,
            "original_height": whole.shape[0],
            "original_width": whole.shape[1],
            "crop": _crop(whole, preprocessing),
            "label": None if label is not None and label < 0 else label,  # -1 is datasets' "no class"
            "caption": caption,
        }
        return View(values, row)

    def view_again(self, row: dict[str, Any], preprocessing: PreprocessingPart) -> View:
        """The image of a row of the index. Raises LatentDatasetError if it is missing, unusable or has changed."""
        if row["source_index"] >= len(self):
            raise LatentDatasetError(f"the data set has only {len(self)} images now")
        view = self.view(row["source_index"], preprocessing)
        if isinstance(view, Unusable):
            raise LatentDatasetError(f"the image cannot be used any more: {view.reason}")
        if (view.row["name"], view.row["id"]) != (row["name"], row["id"]):
            raise LatentDatasetError("the image has changed since it was encoded")
        return view

    def require_fit(self, preprocessing: PreprocessingPart, model: str) -> None:
        """Raise DataError if none of a few images of numbers, evenly spread, is one that the model encodes.

        Any picture can be converted, numbers of other channels cannot.
        """
        pixels, count, reason = preprocessing.pixels, min(len(self), _TRIED), ""
        for place in range(count if pixels.numbers else 0):
            view = self.view(place * len(self) // count, preprocessing)
            if isinstance(view, View):
                return
            reason = f"{view.name}: {view.reason}"
        if reason:
            raise DataError(f"{model} encodes {pixels.describe()}, and none of {count} images fits: {reason}")

    def _place(self, index: int) -> tuple[int, int]:
        for number, part in enumerate(self._parts):
            if index < len(part):
                return number, index
            index -= len(part)
        raise IndexError(index)


class Views(Dataset[View | Unusable | DataError]):
    """Views by index. A DataError is an item: raised in a worker process, it would arrive as a stack trace."""

    def __init__(self, images: Images, preprocessing: PreprocessingPart) -> None:
        self._images, self._preprocessing = images, preprocessing

    def __getitem__(self, index: int) -> View | Unusable | DataError:
        try:
            return self._images.view(index, self._preprocessing)
        except DataError as error:
            return error


def _converted(image: Image.Image | Array, pixels: PixelFormat, background: Color) -> tuple[Array, Image.Image | Array]:
    """A loaded image in a pixel format, [H,W,C], and what parts of it are taken from without converting it again."""
    if not isinstance(image, Image.Image):
        whole = pixels.array(image)
        return whole, whole
    levels = to_uint8(image, pixels.channels, background)
    # As loaded it has the same levels if it is grey or RGB and the model is, too. Parts are not premultiplied yet.
    same = image.mode == {1: "L", 3: "RGB"}.get(pixels.channels) and not image.has_transparency_data
    return pixels.with_alpha(levels), image if same else to_pil(levels)


def content_id(values: Array) -> str:
    """Sha256 in hex over the shape and the values of [H,W,C], little-endian, and of their type unless it is uint8: what
    an image shows, however it was stored.
    """
    kind = "" if values.dtype == np.uint8 else values.dtype.name
    digest = hashlib.sha256("{}x{}x{}{}|".format(*values.shape, kind).encode())
    digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _crop(whole: Array, preprocessing: PreprocessingPart) -> list[int]:
    """Left, top, right, bottom of the part of an image that is encoded."""
    if preprocessing.resolution is None:
        return [0, 0, whole.shape[1], whole.shape[0]]
    box, _ = preprocessing.fitting.place(whole, size_of(preprocessing.resolution), None)
    return list(box)


def _labels(source: ImageSource, column: str | None) -> tuple[Callable[[int], Any], tuple[str, ...] | None]:
    """A function from an image's index to its label, and the names of the labels 0, 1, ..."""
    if column is not None and isinstance(source, ColumnSource):
        values = source.column(column)
        return values.__getitem__, values.class_names or None
    if isinstance(source, LabelledSource):
        return source.label, source.label_names or None
    return _nothing, None


def _captions(source: ImageSource, column: str | None) -> Callable[[int], Any]:
    if column is not None and isinstance(source, ColumnSource):
        return source.column(column).__getitem__
    return source.caption if isinstance(source, CaptionedSource) else _nothing


def _nothing(_index: int) -> None:
    return None
