"""Tiny image files for the tests of the data room."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise_image(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_images(folder: Path, names: list[str]) -> None:
    """Noise, different for every name."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise_image(seed).save(folder / name)


class ListSource:
    """A source of images in memory; an exception in place of an image is raised."""

    def __init__(self, images: list[Image.Image | Exception]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def sample_id(self, index: int) -> str:
        return f"list/{index}"

    def load(self, index: int) -> Image.Image:
        image = self.images[index]
        if isinstance(image, Exception):
            raise image
        return image
