"""Every tag that changes what pixels mean is heeded, or the file refused with the reason."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_ae.data.sources.folder_images import FolderImages
from latent_ae.data.sources.shards import StoredImage
from latent_ae.io.image import BrokenImage, open_image, remarks, to_uint8
from latent_ae.io.image_header import header_size
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.service.errors import TooLarge, UnsupportedFormat
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.uploads import read_image, read_upload
from tests.image_files import CASES, COLORS, ORIENTED, ROCKET, Case, encoded, oriented, turned

READ = {name: case for name, case in CASES.items() if not case.refused}
REFUSED = {name: case for name, case in CASES.items() if case.refused}


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_pixels_are_what_the_tags_say(case: Case) -> None:
    image = open_image(io.BytesIO(case.data))
    pixels = to_uint8(image, 3)
    assert np.abs(pixels.astype(int) - case.right).max() <= case.tolerance
    assert len(remarks(image)) == bool(case.remark)
    assert case.remark in "".join(remarks(image))
    assert header_size(io.BytesIO(case.data)) == pixels.shape[:2]


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_has_no_meaning_is_refused_with_its_reason(case: Case) -> None:
    with pytest.raises(BrokenImage) as caught:
        to_uint8(open_image(io.BytesIO(case.data)), 3)
    assert case.refused in caught.value.reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ORIENTED)
def test_images_are_turned_once_and_their_size_is_known_before(kind: str, orientation: int) -> None:
    data = oriented(kind, orientation)
    right = turned(orientation)
    pixels = to_uint8(open_image(io.BytesIO(data)), 3)
    assert pixels.shape == right.shape
    corners = np.ix_([3, -4], [3, -4])
    assert np.abs(pixels[corners].astype(int) - right[corners]).max() <= 12
    assert header_size(io.BytesIO(data)) == right.shape[:2]


def test_kept_colours_come_with_their_profile() -> None:
    image = open_image(io.BytesIO(encoded(Image.fromarray(COLORS), icc_profile=ROCKET)), colors="keep")
    assert np.array_equal(to_uint8(image, 3), COLORS)
    assert image.info["icc_profile"] == ROCKET
    assert remarks(image) == ("has colours of Adobe RGB (1998), which were kept",)


def test_alpha_survives_a_conversion() -> None:
    pixels = np.dstack([COLORS, np.full(COLORS.shape[:2], 128, np.uint8)])
    image = open_image(io.BytesIO(encoded(Image.fromarray(pixels), icc_profile=ROCKET)))
    opaque = to_uint8(open_image(io.BytesIO(encoded(Image.fromarray(COLORS), icc_profile=ROCKET))), 3).astype(int)
    over = to_uint8(image, 3, (0, 0, 0)).astype(int)
    assert np.abs(over - opaque * 128 / 255).max() <= 0.5


def test_every_way_into_the_program_reads_the_same_pixels(tmp_path: Path) -> None:
    for number, case in enumerate(READ.values()):
        (tmp_path / f"{number:03d}.png").write_bytes(case.data)
    folder = FolderImages(tmp_path, [f"{number:03d}.png" for number in range(len(READ))])
    served = 0
    for number, (name, case) in enumerate(READ.items()):
        right = to_uint8(open_image(io.BytesIO(case.data)), 3)
        assert np.array_equal(to_uint8(folder.load(number), 3), right), name
        assert folder.size(number) == right.shape[:2], name
        stored = StoredImage(name, {"bytes": case.data, "path": None})  # of a hub data set or a stream's shard
        assert np.array_equal(to_uint8(stored.load(), 3), right), name
        with contextlib.suppress(UnsupportedFormat, TooLarge):  # fewer formats, and no second page
            upload = read_upload(case.data, ServiceLimits())
            picture = read_image(upload, pixels=PixelFormat.picture(3), limits=ServiceLimits())
            assert np.array_equal(picture.pixels, right), name
            assert case.remark in "".join(picture.remarks), name
            served += 1
    assert served > 30


OTHERS = {
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", "it is a JPEG XL"),
    "JPEG XL, bare": (b"\xff\x0a\xfa\x1f", "it is a JPEG XL"),
    "OpenEXR": (b"v/1\x01\2\0\0\0", "it is an OpenEXR file"),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera raw file (CR3)"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "camera raw file (RAF)"),
    "ORF": (b"IIRO\x08\0\0\0", "camera raw file (ORF)"),
    "RW2": (b"IIU\0\x18\0\0\0", "camera raw file (RW2)"),
    "PSD": (b"8BPS\0\1", "it is a PSD"),
    "PDF": (b"%PDF-1.7", "it is a PDF"),
    "DICOM": (bytes(128) + b"DICM", "it is a DICOM file"),
    "web page": (b"<!DOCTYPE html><html>", "it is a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "words": (b"These are words.", "it is none of AVIF, BMP"),
}


@pytest.mark.parametrize(("start", "said"), OTHERS.values(), ids=OTHERS)
def test_other_kinds_are_named(start: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(start.ljust(300, b"\0"))
    with pytest.raises(BrokenImage) as caught:
        open_image(tmp_path / "photo.png")
    assert said in caught.value.reason
