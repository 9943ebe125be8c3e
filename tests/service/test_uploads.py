"""Uploads of every kind that people and attackers send: the right pixels, or an error that says what is wrong."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_ae.io.image import Pixels
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.service.errors import BrokenUpload, ServiceError, TooLarge, UnsupportedFormat
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.uploads import Picture, fitted, frame_size, read_image, read_upload

from .conftest import pixels, saved

LIMITS = ServiceLimits(upload_bytes=300_000, pixels=10_000, side=1_000)


def read(file: bytes | Path, channels: int = 3, limits: ServiceLimits = LIMITS) -> Pixels:
    return read_image(read_upload(file, limits), pixels=PixelFormat.picture(channels), limits=limits).pixels


def frames(kind: str, count: int = 2) -> bytes:
    images = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")[:count]]
    stream = io.BytesIO()
    images[0].save(stream, kind, save_all=True, append_images=images[1:])
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claimed_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def claimed_webp(width: int, height: int, kind: str = "VP8X", flags: int = 0) -> bytes:
    if kind == "VP8X":
        body = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == "VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(20)
    else:
        body = b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(20)
    data = kind.encode().ljust(4) + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def claimed_bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def claimed_tiff(**tags: int) -> bytes:
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "offset": 273}
    numbers |= {"samples": 277, "rows": 278, "count": 279, "tile_width": 322, "tile_height": 323, "tile": 324}
    numbers |= {"tile_bytes": 325}
    entries = sorted((numbers[name], value) for name, value in tags.items())
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 0) + bytes(64)


# ------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_come_back_exactly_whatever_their_name(kind: str, channels: int, tmp_path: Path) -> None:
    image = pixels(channels=channels)
    file = tmp_path / "photo.jpg"
    file.write_bytes(saved(image, kind))
    assert np.array_equal(read(file, channels), image)
    assert np.array_equal(read(file.read_bytes(), channels), image)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_files_are_read(kind: str) -> None:
    orange = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(read(saved(orange, kind)).astype(int) - orange).max() <= 8


def test_ink_depth_and_transparency_become_plain_colour() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(stream, "JPEG", quality=95)
    assert np.abs(read(stream.getvalue())[1, 1].astype(int) - (255, 0, 0)).max() <= 3

    stream = io.BytesIO()
    Image.fromarray(np.full((3, 4), 128 * 257, np.uint16)).save(stream, "PNG")
    assert (read(stream.getvalue()) == 128).all()

    stream = io.BytesIO()
    image = Image.new("P", (4, 3))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    image.save(stream, "PNG", transparency=0)
    found = read(stream.getvalue())
    assert found[0, 0].tolist() == [200, 100, 50]
    assert found[2, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_upright_and_a_lie_about_it_is_nothing(orientation: int) -> None:
    image = pixels(6, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.swapaxes(0, 1)}
    turned |= {6: np.rot90(image, -1), 7: image[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(image)}
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(read(saved(image, kind, exif=exif)), turned.get(orientation, image))


def test_a_broken_exif_block_is_no_reason_to_refuse_an_image() -> None:
    orange = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(40)):
        assert read(saved(orange, "JPEG", exif=exif)).shape == (16, 16, 3)


def test_the_preview_within_a_camera_file_is_no_second_image() -> None:
    stream = io.BytesIO()
    photo, preview = Image.new("RGB", (16, 8), "orange"), Image.new("RGB", (8, 4), "blue")
    photo.save(stream, "MPO", save_all=True, append_images=[preview])
    found = read(stream.getvalue())
    assert found.shape == (8, 16, 3)
    assert np.abs(found[4, 8].astype(int) - (255, 165, 0)).max() <= 5


# ------------------------------------------------------------------------------------------------- what is too large


def test_bytes_are_counted_before_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk, and would not fit into memory
    with pytest.raises(TooLarge, match=r"1099511\.6 MB .* at most 0\.3 MB"):
        read(file)
    with pytest.raises(TooLarge, match="at most"):
        read(bytes(300_001))


@pytest.mark.parametrize(
    "data",
    [
        claimed_png(30_000, 30_000),
        claimed_png(101, 100),
        claimed_png(2**31 - 1, 2**31 - 1),
        claimed_webp(16_383, 16_383),
        claimed_webp(16_383, 16_383, "VP8L"),
        claimed_webp(16_383, 16_383, "VP8 "),
        claimed_webp(2**24, 2**24),
        claimed_bmp(30_000, 30_000),
        claimed_bmp(30_000, -30_000),
        claimed_tiff(width=30_000, height=30_000, bits=8, compression=1, photometric=1, offset=200, count=1),
        claimed_png(1_001, 1),
        claimed_png(1, 1_001),
    ],
    ids=lambda data: f"{data[:4]!r}-{len(data)}",
)
def test_size_is_checked_before_a_pixel_is_decoded(data: bytes) -> None:
    with pytest.raises(TooLarge, match="pixels"):
        read(data)


def test_a_tile_may_be_no_larger_than_an_image() -> None:
    tags = {"width": 16, "height": 16, "bits": 8, "compression": 1, "photometric": 1, "tile": 8, "tile_bytes": 64}
    with pytest.raises(TooLarge, match="30000x30000"):
        read(claimed_tiff(**tags, tile_width=30_000, tile_height=30_000))


def picture(file: bytes, limits: ServiceLimits = LIMITS, **options: int) -> Picture:
    return read_image(read_upload(file, limits), pixels=PixelFormat.picture(3), limits=limits, **options)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_read_and_that_is_said(kind: str) -> None:
    found = picture(frames(kind))
    assert found.pixels.shape == (6, 8, 3)
    assert abs(found.pixels.astype(int) - [255, 0, 0]).max() <= 3  # red; AVIF and WebP lose a little
    expected = (
        "has several pages, of which this is the first" if kind == "TIFF" else "is animated; this is its first frame"
    )
    assert found.remarks == (expected,)
    assert picture(frames(kind, count=1)).remarks == ()


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "HEIF"])
def test_other_formats_of_phones_and_the_web_are_bounded_by_their_headers(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    assert picture(saved(pixels(20, 30), kind)).pixels.shape == (20, 30, 3)
    with pytest.raises(TooLarge, match="200x100 pixels"):
        picture(saved(np.zeros((100, 200, 3), np.uint8), kind))


def test_without_its_package_heic_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latent_ae.service.picture_headers.find_spec", lambda _name: None)
    with pytest.raises(UnsupportedFormat, match=r"HEIC.*send it as JPEG.*latent-ae\[heic\]"):
        picture(bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(400))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_large_picture_is_scaled_down_where_that_is_wanted(kind: str) -> None:
    levels = np.linspace(0, 255, 190, dtype=np.uint8)
    image = np.broadcast_to(levels[None, :, None], (100, 190, 3)).copy()
    data = saved(image, kind)
    with pytest.raises(TooLarge, match="scale it down"):
        picture(data)
    found = picture(data, max_pixels=4000)
    height, width = found.pixels.shape[:2]
    assert 3800 < height * width <= 4000
    assert abs(width / height - 1.9) < 0.05
    want = levels[(np.arange(width) + 0.5).astype(int) * 190 // width].astype(int)
    assert abs(found.pixels[height // 2, :, 1].astype(int) - want)[2:-2].max() <= 6
    assert found.remarks == ("was scaled down from 0.0 million pixels",)
    assert picture(saved(image[:20, :20], kind), max_pixels=4000).remarks == ()
    height, width = picture(data, max_pixels=10**6).pixels.shape[:2]
    assert 9600 < height * width <= 10_000, "never more than the server takes"
    with pytest.raises(TooLarge):  # more than four times the limit
        picture(saved(np.zeros((210, 200, 3), np.uint8), kind), max_pixels=4000)


def test_a_phones_photograph_is_scaled_down_upright() -> None:
    image = Image.new("RGB", (160, 90))
    image.paste((255, 255, 255), (0, 0, 160, 45))  # above; on the right once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif, quality=95)
    found = picture(stream.getvalue(), max_pixels=3600).pixels
    assert found.shape == (80, 45, 3)
    assert found[40, 40].min() > 240
    assert found[40, 5].max() < 15


def test_a_jpeg_of_fifty_scans_is_refused() -> None:
    data = saved(pixels(64, 64), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert read(data).shape == (64, 64, 3)
    with pytest.raises(TooLarge, match="scans"):
        read(data[:-2] + 51 * scan + data[-2:])


# -------------------------------------------------------------------------------------------------- what is no image


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n" * 30, "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (saved(pixels(), "PPM"), "not in a known image format"),
        (b"These are words.\n" * 40, "not in a known image format"),
        (bytes(1000), "not in a known image format"),
        (b"x", "not in a known image format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_kinds_are_named_and_refused(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"{name}.*supported: JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP and TIFF"):
        read(data)


def test_an_empty_or_missing_file_is_broken(tmp_path: Path) -> None:
    with pytest.raises(BrokenUpload, match="empty"):
        read(b"")
    for place in (tmp_path / "there is none", tmp_path):
        with pytest.raises(BrokenUpload) as caught:
            read(place)
        assert str(tmp_path) not in str(caught.value)  # a path of the server is not the visitor's business


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_file_cut_short_is_refused_wherever_it_is_cut(kind: str) -> None:
    data = saved(pixels(90, 100), kind)
    assert len(data) > 3000
    for length in [*range(1, 60, 7), *range(1024, len(data) - 20, 1024)]:
        with pytest.raises(ServiceError) as caught:
            read(data[:length])
        assert caught.type in (BrokenUpload, UnsupportedFormat if length < 30 else BrokenUpload)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_damaged_file_gives_pixels_or_a_typed_error(kind: str) -> None:
    data = saved(pixels(40, 50), kind)
    draw = np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(data)
        for at in draw.integers(0, len(data) if draw.random() < 0.5 else 200, 3):
            damaged[at] = draw.integers(256)
        try:
            found = read(bytes(damaged))
        except ServiceError:
            continue
        assert found.dtype == np.uint8
        assert found.shape[2] == 3
        assert found.shape[0] * found.shape[1] <= LIMITS.pixels


# ------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        ((100, 90), 1, (100, 90)),
        ((100, 90), 9, (35, 31)),  # 9 * 35 * 31 = 9765 of 10000
        ((2, 1000), 1, (1, 256)),
        ((512, 1024), 1, (70, 141)),
    ],
)
def test_frames_are_made_small_enough_for_all_of_them(size: tuple[int, int], count: int, expected: tuple) -> None:
    assert frame_size(np.zeros((*size, 3), np.uint8), count, LIMITS) == expected


def test_an_image_is_fitted_by_scaling_it_and_cutting_out_its_middle() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    square = fitted(image, 10, 10)
    assert square.shape == (10, 10, 3)
    assert square.min() > 180  # the resampling rings at the edges
    assert fitted(image, 20, 60) is image
    assert fitted(image[..., :1], 7, 5).shape == (7, 5, 1)
