"""Example images for visitors who have none at hand."""

from pathlib import Path

from PIL import Image, ImageOps

from latent_ae.data import DigitsConfig, PhotosConfig
from latent_ae.io.image import save_png, to_uint8

_DIGITS = (11, 6, 14, 10)
"""places of digits that are easy to tell apart"""
_PHOTOS = (1, 2, 3, 0)
"""places of photographs, those in colour first"""
_SMALL = 64


def example_images(folder: Path, *, channels: int, side: int | None) -> list[Path]:
    """Write four of the held-out images that need no download: digits for small grey models, else photographs.

    `channels` and `side` (pixels, None if unknown) are those of the images a model was trained on.
    Photographs are cropped to a square at the centre, of at most 512 pixels.
    """
    digits = channels <= 2 and side is not None and side <= _SMALL
    source = (DigitsConfig() if digits else PhotosConfig()).open().heldout
    paths = []
    for place in _DIGITS if digits else _PHOTOS:
        image = source.load(place)
        assert isinstance(image, Image.Image), "these sources give pictures"
        square = (min(512, *image.size),) * 2
        paths.append(folder / f"{Path(source.sample_id(place).replace('/', '-')).stem}.png")
        cropped = ImageOps.fit(image, square, Image.Resampling.LANCZOS)
        save_png(paths[-1], to_uint8(cropped, 1 if image.mode == "L" else 3))
    return paths
