"""Small images as files, and files as images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from latent_ae.io.image import Pixels


def pixels(height: int, width: int, seed: int = 0) -> Pixels:
    """[H,W,3] uint8 in which no two rows or columns are alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(image: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read(file: str | Path | bytes) -> Pixels:
    """A PNG's pixels; it must be one."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))
