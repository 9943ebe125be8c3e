"""What an upload has that a model does not know or cannot keep, in words for people."""

from PIL import Image

from latent_ae.io.pixel_format import PixelFormat
from latent_ae.service.catalog import ModelInfo

_SMALL = 64
"""side in pixels of training images up to which grey models know whole small pictures, not parts of photographs"""
_LARGER = 4
"""sides of training images that a picture may have before it is called large"""


def unlike_training(info: ModelInfo, height: int, width: int, *, colored: bool) -> str:
    """How a picture of so many pixels differs from a model's training images, a sentence; '' if it hardly does.

    `colored` says that its file has colours.
    """
    grey = info.pixel_format.is_default and info.channels == 1
    small = grey and info.native_size is not None and info.native_size <= _SMALL
    loses = colored and grey
    if not loses and not (small and max(height, width) > _LARGER * (info.native_size or 0)):
        return ""
    size = f"{info.native_size}-pixel " if small else ""
    known = "digits" if "digits" in info.trained_on else "images"
    picture = f"a{' colour' if colored else ''} picture of {width} \N{MULTIPLICATION SIGN} {height} pixels"
    return f"{info.id} was trained on {size}grey {known}; this is {picture}{', shown in grey' if loses else ''}."


def conversions(image: Image.Image, pixels: PixelFormat) -> tuple[str, ...]:
    """What of an opened picture a model's pixel format cannot hold, each continues: the image."""
    found = []
    if image.mode == "CMYK":
        found.append("is CMYK without a colour profile: its colours are an estimate")
    if image.has_transparency_data and pixels.channels in (1, 3):
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:  # type: ignore[operator]  # one band has one pair
            found.append("is transparent in places, which were laid over white")
    return tuple(found)
