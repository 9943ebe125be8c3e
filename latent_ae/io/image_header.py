"""What the header of an image file tells, without decoding its pixels."""

from pathlib import Path
from typing import BinaryIO

from latent_ae.io.image_file.opening import opened, upright_size


def header_size(file: Path | BinaryIO) -> tuple[int, int]:
    """(height, width) in pixels of the upright image. Raises BrokenImage if the header cannot be read."""
    with opened(file) as image:
        return upright_size(image)
