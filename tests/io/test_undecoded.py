import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from latent_ae.io.image import BrokenImage, open_image
from latent_ae.io.image_file import color
from latent_ae.io.image_file.jpeg import first_rows, stored_size
from latent_ae.io.undecoded import UndecodedImage, open_undecoded

WIDTH, HEIGHT = 283, 311
"""no multiples of a block, and enough pixels to be worth reading the header"""
WIDE = color.matrix_profile("wide", ((0.7, 0.29), (0.17, 0.78), (0.13, 0.05)), (1.8,))
BOXES = ((0, 0, 1, 1), (40, 3, 60, 130), (0, 100, 200, 191), (7, 180, 199, 240), (100, 200, 130, 270), (0, 0, 283, 283))


def photo(mode: str = "RGB") -> Image.Image:
    """Smooth ramps and noise: no two blocks are the same."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3))
    return Image.fromarray((np.dstack([x // 2, y // 2, x * y // 512]) % 196 + noise).astype(np.uint8)).convert(mode)


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    photo(mode).save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def adobe_rgb() -> Image.Exif:
    exif = turned(8)
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    return exif


def without_details() -> bytes:
    """A progressive file that ends after the scan with the averages of its blocks, which decoders smooth."""
    data = jpeg(progressive=True)
    second_scan = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    return data[: data.rindex(b"\xff\xc4", 0, second_scan)] + b"\xff\xd9"


FILES = {
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "4:2:0": jpeg(subsampling=2),
    "4:1:1": jpeg(subsampling="4:1:1"),
    "progressive": jpeg(progressive=True),
    "progressive, without details": without_details(),
    "restart markers": jpeg(restart_marker_blocks=5),
    "grey": jpeg("L"),
    "CMYK": jpeg("CMYK"),
    "a profile": jpeg(icc_profile=WIDE),
    "a profile of another mode": jpeg("L", icc_profile=WIDE),
    "a damaged profile": jpeg(icc_profile=b"no profile"),
    "Adobe RGB by EXIF, turned": jpeg(exif=adobe_rgb()),
    "a profile, turned": jpeg(icc_profile=WIDE, exif=turned(6)),
    "broken EXIF": jpeg(exif=b"Exif\0\0II*\0\xff\xff"),
} | {f"orientation {each}": jpeg(exif=turned(each)) for each in range(1, 9)}


def opened(data: bytes) -> UndecodedImage:
    found = open_undecoded(io.BytesIO(data))
    assert found is not None
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_part_is_that_of_the_whole_image(name: str) -> None:
    whole = open_image(io.BytesIO(FILES[name]))
    undecoded = opened(FILES[name])
    assert undecoded.size == whole.size
    for box in (*BOXES, (0, 0, *whole.size), (whole.width - 9, whole.height - 5, *whole.size)):
        part = undecoded.part(box)
        assert part.mode == whole.mode
        assert part.size == (box[2] - box[0], box[3] - box[1]) or box[:2] == (0, 0)
        assert np.array_equal(
            np.asarray(part.crop((0, 0, box[2] - box[0], box[3] - box[1]))), np.asarray(whole.crop(box))
        )
        assert part.info == {}


def test_several_images_in_a_file(tmp_path: Path) -> None:
    photo().save(tmp_path / "both.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (300, 300))])
    undecoded = open_undecoded(tmp_path / "both.jpg")
    assert undecoded is not None
    whole = open_image(tmp_path / "both.jpg")
    assert np.array_equal(np.asarray(undecoded.part(BOXES[1])), np.asarray(whole.crop(BOXES[1])))


@pytest.mark.parametrize("name", ["4:2:0", "progressive", "restart markers"])
def test_rows_below_a_part_are_not_decoded(name: str) -> None:
    data = FILES[name]
    short = first_rows(data, 100)
    assert len(short) == len(data)
    with Image.open(io.BytesIO(short)) as image:
        assert image.size == (WIDTH, 192)  # six blocks of 32 rows
    assert first_rows(data, HEIGHT - 60) is data
    assert first_rows(data[:-40], 100) is not short
    assert first_rows(data[:-40], 100) == data[:-40]


def test_a_file_that_was_cut_short_is_refused_whichever_part_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(FILES["4:2:0"][: len(FILES["4:2:0"]) * 9 // 10])
    undecoded = open_undecoded(tmp_path / "cut.jpg")
    assert undecoded is not None
    with pytest.raises(BrokenImage) as ours:
        undecoded.part((0, 0, 8, 8))
    with pytest.raises(BrokenImage) as whole:
        open_image(tmp_path / "cut.jpg")
    assert (ours.value.name, ours.value.reason) == (whole.value.name, whole.value.reason)


def test_what_has_to_be_read_whole(tmp_path: Path) -> None:
    photo().resize((250, 250)).save(tmp_path / "small.jpg")
    photo().save(tmp_path / "photo.png")
    for name in ("small.jpg", "photo.png"):
        assert open_undecoded(tmp_path / name) is None
        assert open_undecoded(io.BytesIO((tmp_path / name).read_bytes())) is None
    with pytest.raises(BrokenImage, match="there is no such file"):
        open_undecoded(tmp_path / "gone.jpg")


def test_the_size_in_a_header() -> None:
    found = stored_size(FILES["progressive"])
    assert found is not None
    assert found[:2] == (HEIGHT, WIDTH)
    for length in range(200):  # a header may end anywhere
        assert stored_size(FILES["4:2:0"][:length]) in (None, stored_size(FILES["4:2:0"]))
    assert stored_size(b"\xff\xd8\xff\xda" + bytes(40)) is None
    assert open_undecoded(io.BytesIO(b"\xff\xd8\xff\xda" + bytes(40))) is None
