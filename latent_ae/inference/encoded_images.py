"""Images that are read one by one and encoded, for what is computed over many latents."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from latent_ae.data.source import ImageSource
from latent_ae.errors import BrokenImage
from latent_ae.inference.codec import Codec
from latent_ae.inference.image_reading import read_image
from latent_ae.io.pixel_format import Array, PixelFormat

_AT_ONCE = 16
"""images that are held and encoded together"""

Load = Callable[[], Array]
"""reads an image, [H,W,C] in the units of the pixel format; raises BrokenImage"""
OnBad = Callable[[str], None]
"""is told of an image that is left out"""


def file_loader(path: Path, pixels: PixelFormat) -> Load:
    """Reads an image file."""

    def load() -> Array:
        try:
            with path.open("rb") as file:
                return read_image(file, pixels).array
        except BrokenImage as error:
            raise BrokenImage(error.reason, str(path)) from error

    return load


def source_loader(source: ImageSource, index: int, pixels: PixelFormat) -> Load:
    """Reads an image of a source."""

    def load() -> Array:
        try:
            return pixels.array(source.load(index))
        except BrokenImage as error:
            raise BrokenImage(error.reason, source.sample_id(index)) from error

    return load


def encoded_images(codec: Codec, loads: Sequence[Load], on_bad: OnBad) -> list[Tensor | None]:
    """The latents [c,h,w] of each image, the posterior's mode; None for one that cannot be used."""
    found: list[Tensor | None] = []
    for first in range(0, len(loads), _AT_ONCE):
        images: dict[int, Array] = {}
        some = loads[first : first + _AT_ONCE]
        for place, load in enumerate(some):
            try:
                images[place] = load()
            except BrokenImage as error:
                on_bad(str(error))
        encoded = dict(zip(images, codec.encode(list(images.values())), strict=True))
        found += [codec.vectors(encoded[place])[0].cpu() if place in encoded else None for place in range(len(some))]
    return found
