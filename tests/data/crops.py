"""Crops and views of images in memory, and images to cut."""

from typing import Any

import numpy as np
from PIL import Image

from latent_ae.data.transforms import TrainingCrop, evaluation_view
from latent_ae.io.image import WHITE
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.randomness import numpy_generator


def positions(width: int, height: int) -> Image.Image:
    """Every pixel says where it is: red is x, green is y."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return Image.fromarray(np.dstack([x, y, np.zeros_like(x)]))


def crop(image: Any, draw: int = 0, **changes: Any) -> np.ndarray:
    settings = {"channels": 3, "crop": "random", "resolution": 16} | changes
    made = settings.pop("channels")
    settings["pixel_format"] = made if isinstance(made, PixelFormat) else PixelFormat.picture(made)
    side = settings.pop("resolution")
    size = (side, side) if isinstance(side, int) else side
    generator = settings.pop("generator", numpy_generator(0, "crop", draw))
    return TrainingCrop(**settings)(image, size, generator)


def view(image: Any, size: Any, channels: Any = 3, **changes: Any) -> np.ndarray:
    pixel_format = channels if isinstance(channels, PixelFormat) else PixelFormat.picture(channels)
    return evaluation_view(image, pixel_format=pixel_format, size=size, **{"background": WHITE, **changes})


def numbers(channels: int, **changes: Any) -> PixelFormat:
    return PixelFormat(channels, numbers=True, dtype="float32", ranges=((0.0, 1000.0),), **changes)


def assert_same_values(numbers: np.ndarray, levels: np.ndarray) -> None:
    """Half a level in each direction, after which a picture is rounded, times the weights of the filter."""
    distance = np.abs(numbers - levels.astype(float))
    assert distance.max() <= 1.3
    assert distance.mean() <= 0.4


def of_mode(mode: str) -> Image.Image:
    """A photograph-like image of 61x47 pixels in a mode of PIL."""
    y, x = np.mgrid[:47, :61]
    noise = np.random.default_rng(0).integers(0, 60, (47, 61, 3))
    rgb = Image.fromarray((np.dstack([3 * x, 4 * y, x * y // 16]) % 196 + noise).astype(np.uint8))
    alpha = Image.fromarray((5 * y % 256).astype(np.uint8))
    if mode in ("I;16", "I", "F"):
        levels = np.asarray(rgb.convert("L"))
        types = {"I;16": np.uint16(257), "I": np.int32(257), "F": np.float32(1 / 255)}
        return Image.fromarray(levels * types[mode])
    if mode in ("RGB key", "L key", "P key"):
        image = rgb.convert(mode.removesuffix(" key"))
        image.info["transparency"] = (200, 100, 50) if mode == "RGB key" else 7
        return image
    if mode in ("RGBA", "LA", "PA"):
        rgb.putalpha(alpha)
        return rgb.convert(mode)
    if mode == "La":
        rgb.putalpha(alpha)
        return rgb.convert("LA").convert("La")
    return rgb.convert(mode)
