"""Images to begin with, for visitors who have none at hand."""

from pathlib import Path

import numpy as np
from PIL import Image

from latent_ae.io.image import save_png, to_uint8

_DIGITS = (59, 34, 74, 54)
"""places in scikit-learn's table of digits that the recipes hold out"""
_PHOTOS = ("chelsea", "coffee", "rocket", "camera")
"""photographs of scikit-image that the recipes hold out"""
_SMALL = 64


def example_images(folder: Path, *, channels: int, side: int | None) -> list[Path]:
    """Write four PNGs that ship inside scikit-learn or scikit-image: digits for small grey models, else photographs.

    `channels` (1 or 3) and `side` (pixels, None if not known) are those of the images a model was trained on.
    Photographs are cut to a square in the middle, of at most 512 pixels.
    """
    small = side is not None and side <= _SMALL
    images = _digits() if channels == 1 and small else _photos(128 if small else 512)
    paths = []
    for name, image in images.items():
        paths.append(folder / f"{name}.png")
        save_png(paths[-1], to_uint8(image, 1 if image.mode == "L" else 3))
    return paths


def _digits() -> dict[str, Image.Image]:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second

    table = load_digits()
    levels = np.floor(table.images / 16 * 255 + 0.5).astype(np.uint8)
    return {
        f"digit-{table.target[place]}": Image.fromarray(levels[place]).resize((32, 32), Image.Resampling.BICUBIC)
        for place in _DIGITS
    }


def _photos(side: int) -> dict[str, Image.Image]:
    from skimage import data  # noqa: PLC0415

    return {name: _square(Image.fromarray(getattr(data, name)()), side) for name in _PHOTOS}


def _square(image: Image.Image, side: int) -> Image.Image:
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    return square.resize((side, side), Image.Resampling.LANCZOS) if short > side else square
