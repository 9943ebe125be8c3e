"""The two sets of images that an attribute leads between: files, or classes of a source; a part is held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latent_ae.data.source import DataError, ImageSource, LabelledSource, SourceParts
from latent_ae.errors import UserError
from latent_ae.inference.encoded_images import Load, file_loader, source_loader
from latent_ae.io.checksum import file_sha256
from latent_ae.io.pixel_format import PixelFormat

_FEWEST_HELD_OUT = 10
"""files of a side, unless that is more than half of it"""
_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class Side:
    """One of the two sets of images."""

    name: str
    fitted: Sequence[Load]
    """for the mean"""
    heldout: Sequence[Load]
    """for measuring how well the difference of the means separates"""


def sides_of_files(pixels: PixelFormat, sides: Sequence[tuple[str, Sequence[Path]]], *, most: int) -> list[Side]:
    """Two named sets of image files as sides; a fifth of each, at least 10 files or half of them, is held out.

    Which files are held out, and which `most` are used, follows from the files' bytes alone. Raises UserError if a
    file's bytes are on both sides, and for a side of fewer than two different files; OSError.
    """
    contents = [{file_sha256(path): path for path in paths} for _, paths in sides]
    if both := [key for key in contents[0] if key in contents[1]]:
        one, other = (content[both[0]] for content in contents)
        raise UserError(
            f"{len(both)} images are on both sides, among them {one}, which is {other}: leave them out of one side"
        )
    found = []
    for (name, _), files in zip(sides, contents, strict=True):
        if len(files) < 2:
            raise UserError(f"{name} holds {len(files)} image, expected at least 2 different ones")
        loads = [file_loader(files[key], pixels) for key in sorted(files)[:most]]
        held = max(len(loads) // 5, min(_FEWEST_HELD_OUT, len(loads) // 2))
        found.append(Side(name, loads[held:], loads[:held]))
    return found


def sides_of_classes(pixels: PixelFormat, parts: SourceParts, names: Sequence[str], *, most: int) -> list[Side]:
    """The images of two classes as sides: up to `most` of the training part, and of the part that is held out.

    Raises DataError for a source without classes, for a class that it does not have, and for one without images.
    """
    for part in (parts.train, parts.heldout):
        if not isinstance(part, LabelledSource) or not part.label_names:
            raise DataError("the images have no classes: give two folders, --from DIR --to DIR")
        for name in names:
            if name not in part.label_names:
                known = ", ".join(part.label_names[:_SHOWN_CLASSES])
                more = ", ..." if len(part.label_names) > _SHOWN_CLASSES else ""
                raise DataError(f"the images have no class {name!r}: there are {known}{more}")
    loads = [[_of_class(part, name, pixels, most) for part in (parts.train, parts.heldout)] for name in names]
    return [Side(name, *found) for name, found in zip(names, loads, strict=True)]


def _of_class(source: ImageSource, name: str, pixels: PixelFormat, most: int) -> list[Load]:
    """Up to `most` images of a class, spread evenly."""
    assert isinstance(source, LabelledSource)
    number = source.label_names.index(name)
    indices = [index for index in range(len(source)) if source.label(index) == number]
    chosen = np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(int)
    return [source_loader(source, indices[place], pixels) for place in chosen]
