"""An image file opened by Pillow: its kind, the limits that hold while it is read, its orientation and its frames."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from latent_ae.errors import BrokenImage, UserError
from latent_ae.io.image_file import tiff
from latent_ae.io.image_file.containers import place_kept, png_chunks


class Plugin(NamedTuple):
    """A package that teaches PIL a format."""

    kind: str
    """as in _OTHERS"""
    module: str
    extra: str
    """of latent-ae, which installs it"""
    suffixes: tuple[str, ...]


PLUGINS = {
    "HEIF": Plugin("a HEIC", "pillow_heif", "heic", (".heic", ".heif", ".hif")),
    "JXL": Plugin("a JPEG XL", "pillow_jxl", "jxl", (".jxl",)),
}
"""by PIL's names of what packages of their own read"""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP", *PLUGINS)
"""PIL's names of what is read: rasters only. EPS would start Ghostscript on a stranger's program."""
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"}
    | {suffix for plugin in PLUGINS.values() if find_spec(plugin.module) for suffix in plugin.suffixes}
)
"""File name endings, in lower case, of the files in FORMATS whose package is installed."""

HEAD = 352
"""bytes at the start of a file that tell which kind it is"""
_OTHERS = (
    (0, b"8BPS", "a PSD"),
    (0, b"v/1\x01", "an OpenEXR file"),
    (0, b"#?RADIANCE", "a Radiance HDR file"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL"),
    (0, b"II\xbc\x01", "a JPEG XR"),
    *((4, b"ftyp" + brand, "a HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    (4, b"ftypcrx ", "a camera raw file (CR3)"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file (RAF)"),
    *((0, start, "a camera raw file (ORF)") for start in (b"IIRO", b"IIRS", b"MMOR")),
    (0, b"IIU\0", "a camera raw file (RW2)"),
    (0, b"FOVb", "a camera raw file (X3F)"),
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\x00\x00\x01\x00", "an ICO"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "SVG or XML"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (128, b"DICM", "a DICOM file"),
    *((344, start, "a NIfTI volume") for start in (b"n+1\0", b"ni1\0")),
    *((4, start, "a NIfTI volume") for start in (b"n+2\0", b"ni2\0")),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, whose file was never fetched (git lfs pull)"),
    *((0, start, "a web page") for start in (b"<!DOCTYPE html", b"<!doctype html", b"<html")),
)
"""(place, bytes, what the file is) of files that are met where images are expected, and are not read"""


_ORIENTED_BY = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""what PIL takes an orientation from, of an image that is no longer of a file"""
_NUMBERS = ("an OpenEXR file", "a NumPy array", "a DICOM file", "a NIfTI volume")
"""what `latent_ae.io.rasters` reads"""


def other_kind(head: bytes) -> str | None:
    """What a file is that is none of FORMATS, by its first bytes (HEAD): "a HEIC"; None if that is not known."""
    return next((name for place, start, name in _OTHERS if head[place:].startswith(start)), None)


class _Reading:
    """Silences PIL's remarks on odd files, except that a decompression bomb is an error, and lifts PIL's limit.

    Warning filters and the limit belong to the whole process, and threads that each set and restored them would
    restore each other's. So the first that comes sets them and the last that goes restores them, and nobody waits for
    a slow file. A program that reads strangers' files (`limited`) never lifts the limit, nor does it change for others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._lifters = 0
        self._filters = warnings.catch_warnings()
        self._limit: int | None = None

    @contextmanager
    def __call__(self, *, limited: bool) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            if self._lifters == 0 and not limited:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
            self._lifters += not limited
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._lifters -= not limited
                if self._lifters == 0 and not limited:
                    Image.MAX_IMAGE_PIXELS = self._limit
                if self._users == 0:
                    self._filters.__exit__(None, None, None)


reading = _Reading()


@contextmanager
def opened(
    file: Path | BinaryIO, *, formats: tuple[str, ...] = FORMATS, limited: bool = False
) -> Iterator[Image.Image]:
    """The image in a file, its header read and no pixel decoded.

    With `limited` it may have no more pixels than PIL holds to be safe (`PIL.Image.MAX_IMAGE_PIXELS`). Whatever PIL
    raises in the block, for a file that is damaged or none of `formats`, becomes a BrokenImage.
    """
    with broken_image_errors(file, formats), reading(limited=limited), _identified(file, formats, limited) as image:
        yield image


def _identified(file: Path | BinaryIO, formats: tuple[str, ...], limited: bool) -> Image.Image:
    try:
        return Image.open(file, formats=tuple(name for name in formats if name not in PLUGINS))
    except UnidentifiedImageError:
        kind = other_kind(_head(file))
        name = next((name for name, plugin in PLUGINS.items() if plugin.kind == kind), None)
        # JPEG XL is decoded before its size can be checked.
        unbounded = limited and name == "JXL"
        if name is None or name not in formats or unbounded or not find_spec(PLUGINS[name].module):
            raise
    plugin = import_module(PLUGINS[name].module)
    if name == "HEIF":
        plugin.register_heif_opener()
    try:
        return Image.open(file, formats=(name,))
    except Exception as error:  # whatever the package raises says less
        raise BrokenImage(f"it is {kind}, and it is damaged") from error


@contextmanager
def broken_image_errors(file: Path | BinaryIO, formats: tuple[str, ...] = FORMATS) -> Iterator[None]:
    """Turn whatever a library raises for a damaged or hostile file into a BrokenImage that names the file."""
    name = str(file) if isinstance(file, Path) else None
    try:
        yield
    except UnidentifiedImageError:
        raise BrokenImage(_why_unknown(file, formats), name) from None
    except BrokenImage as error:
        raise BrokenImage(error.reason, error.name or name) from error.__cause__
    except FileNotFoundError:
        raise BrokenImage("there is no such file", name) from None
    except MemoryError:
        raise BrokenImage("its pixels do not fit into the memory", name) from None
    except UserError:  # the caller's own
        raise
    except Exception as error:  # a damaged or hostile file makes decoders raise nearly anything
        raise BrokenImage(str(error) or type(error).__name__, name) from error


def _head(file: Path | BinaryIO) -> bytes:
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return stream.read(HEAD)
    with place_kept(file):
        file.seek(0)
        return file.read(HEAD)


def _why_unknown(file: Path | BinaryIO, formats: tuple[str, ...]) -> str:
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return _why_unknown(stream, formats)
    kind = other_kind(_head(file))
    if kind in _NUMBERS:
        return (
            f"it is {kind}, which holds numbers: state their range (data.value_range, data.percentiles or data.window)"
        )
    if kind is not None:
        plugin = next((plugin for plugin in PLUGINS.values() if plugin.kind == kind), None)
        install = (
            f', or pip install "latent-ae[{plugin.extra}]"' if plugin and not find_spec(plugin.module) else " first"
        )
        return f"it is {kind}, which is not read: convert it to PNG or JPEG{install}"
    with place_kept(file):
        reason = tiff.why_unknown(file) if "TIFF" in formats else None
    return reason or f"it is none of {', '.join(formats)}, or its header is damaged"


def upright(image: Image.Image) -> Image.Image:
    """The image itself, or one turned by its EXIF orientation. EXIF that cannot be parsed counts as none, as in any
    viewer.
    """
    image.load()
    if type(image) is Image.Image and image.info.keys().isdisjoint(_ORIENTED_BY) and not image.getexif():
        return image  # what `open_image` gave: nothing is parsed
    try:
        with reading(limited=True):
            turn = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            return ImageOps.exif_transpose(image) if turn else image
    except Exception:  # pixels are decoded by now, and broken EXIF makes PIL raise nearly anything
        return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of the upright image of an opened file, which is not decoded."""
    width, height = image.size
    if ExifTags.Base.Orientation in getattr(image, "tag_v2", ()):  # a TIFF's size is upright from the start
        return height, width
    if image.format == "PNG" and image.fp is not None:  # type: ignore[attr-defined]
        with place_kept(image.fp):  # type: ignore[attr-defined]
            names = [chunk.name for chunk in png_chunks(image.fp)]  # type: ignore[attr-defined]
        pixels = names.index(b"IDAT") if b"IDAT" in names else len(names)
        if {b"eXIf", b"iTXt", b"zTXt", b"tEXt"}.isdisjoint(names[pixels:]):
            # PIL's own method of a PNG decodes all of it, to look for EXIF data behind the pixels.
            image.getexif = lambda: Image.Image.getexif(image)  # type: ignore[method-assign]
    try:
        sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
    except Exception:  # as in `upright`
        sideways = False
    return (width, height) if sideways else (height, width)


def frame_count(image: Image.Image) -> int:
    """How many frames or pages an opened file has; those of a file that cannot be counted are 1."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # what lies behind the first image may be damaged, and is not used
        return 1
    finally:
        image.seek(0)
