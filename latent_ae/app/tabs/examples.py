"""Example images for visitors who have none at hand."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from latent_ae.io.image import save_png, to_uint8

_DIGITS = (59, 34, 74, 54)
"""rows of scikit-learn's table of digits that the recipes hold out"""
_PHOTOS = ("chelsea", "coffee", "rocket", "camera")
"""photographs of scikit-image that the recipes hold out"""
_SMALL = 64


def example_images(folder: Path, *, channels: int, side: int | None) -> list[Path]:
    """Write four PNGs that ship inside scikit-learn or scikit-image: digits for small grey models, else photographs.

    `channels` (1 or 3) and `side` (pixels, None if unknown) are those of the images a model was trained on.
    Photographs are cropped to a square at the centre, of at most 512 pixels.
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
        f"digit-{table.target[row]}": Image.fromarray(levels[row]).resize((32, 32), Image.Resampling.BICUBIC)
        for row in _DIGITS
    }


def _photos(side: int) -> dict[str, Image.Image]:
    from skimage import data  # noqa: PLC0415

    images = {name: Image.fromarray(getattr(data, name)()) for name in _PHOTOS}
    return {
        name: ImageOps.fit(image, (min(side, *image.size),) * 2, Image.Resampling.LANCZOS)
        for name, image in images.items()
    }
