"""Decoded images that are kept in memory, where all of a data set's fit: few photographs, or many small images."""

from typing import Any

from PIL import Image

from latent_ae.data.grid import Cells
from latent_ae.data.source import ImageSource, opener
from latent_ae.io.pixel_format import Array
from latent_ae.io.undecoded import UndecodedImage

_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2, "LA": 4}
"""that PIL takes for a pixel of a mode; 4 of all others"""


class KeptImages:
    """Opens the images of a source by their index. As long as all that were opened fit, they are kept decoded; then all
    are given back, and none is kept any more: of a large data set each image is seen once in a long while.
    """

    def __init__(self, source: ImageSource, most_bytes: int) -> None:
        """`most_bytes` limits the memory; 0 keeps nothing. Of cells, their source keeps what they are cut out of."""
        self._load, self._open = source.load, opener(source)
        self._most = self._left = most_bytes
        self._kept: dict[int, Image.Image | Array] | None = {}
        if not most_bytes or isinstance(source, Cells):
            self._kept = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None if self._kept is None else {}, "_left": self._most}

    def __call__(self, index: int) -> UndecodedImage | Image.Image | Array:
        """Raises BrokenImage."""
        if self._kept is None:
            return self._open(index)
        if (found := self._kept.get(index)) is not None:
            return found
        image = self._load(index)
        self._left -= decoded_bytes(image)
        if self._left < 0:
            self._kept = None
        else:
            self._kept[index] = image
        return image


def decoded_bytes(image: Image.Image | Array) -> int:
    """The memory of an image."""
    if isinstance(image, Image.Image):
        return image.width * image.height * _BYTES.get(image.mode, 4)
    return int(image.nbytes)
