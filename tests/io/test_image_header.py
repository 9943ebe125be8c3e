import io
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from latent_ae.io.image import BrokenImage, open_image
from latent_ae.io.image_header import header_size
from tests.data.images import noise_image


def file_of(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return io.BytesIO(stream.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_size_is_that_of_the_opened_image(kind: str) -> None:
    assert header_size(file_of(noise_image(0, 20, 16), kind)) == (16, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_that_are_turned_when_opened(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = file_of(noise_image(0, 20, 16), kind, exif=exif)
    width, height = open_image(file).size
    file.seek(0)
    assert header_size(file) == (height, width)


def test_pixels_are_not_needed() -> None:
    content = file_of(noise_image(0, 300, 200), "PNG").getvalue()
    assert header_size(io.BytesIO(content[:100])) == (200, 300)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenImage):
        header_size(io.BytesIO(b"words"))
    with pytest.raises(BrokenImage, match=r"gone\.png"):
        header_size(tmp_path / "gone.png")
