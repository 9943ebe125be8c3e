"""Image files that hold numbers without loss: PNG where it can, TIFF and NumPy's .npy for every type."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latent_ae.errors import UserError
from latent_ae.io.atomic import write_atomically

Alpha = Literal["none", "straight", "premultiplied"]
"""whether the last of 2 or 4 channels is alpha, and whether the others are multiplied by it"""

SUFFIXES = (".png", ".tif", ".tiff", ".npy")
KEY = "latent_ae"
"""of the text that a program leaves in a PNG or TIFF"""

_COMPRESSION = 3
"""twice as fast as zlib's usual 6, and photographs become 7 % larger"""
_PNG_HEADER = 33
"""bytes of a PNG's signature and first chunk"""


def write_raster(path: Path, values: NDArray[Any], *, unit: str = "", alpha: Alpha = "none") -> None:
    """Write `raster_bytes` in the format of the path's suffix, whole or not at all; the folder must exist.

    Raises UserError for a suffix that cannot hold the values, with those that can; OSError.
    """
    try:
        data = raster_bytes(path.suffix, values, unit=unit, alpha=alpha)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    write_atomically(path, data)


def raster_bytes(
    suffix: str,
    values: NDArray[Any],
    *,
    unit: str = "",
    alpha: Alpha = "none",
    text: str = "",
    profile: bytes | None = None,
) -> bytes:
    """A file that holds numbers without loss.

    Args:
        suffix: .png, .tif, .tiff or .npy.
        values: [H, W, C] integers or floats of up to 64 bits.
        unit: of the values, such as HU. TIFF records it.
        alpha: what the last channel is. TIFF records it.
        text: in ASCII, for the program itself: PNG and TIFF hold it under KEY.
        profile: ICC profile of the colours; None for sRGB, and for numbers.

    Raises UserError for a suffix that cannot hold the values, with those that can.
    """
    if values.ndim != 3 or values.dtype.kind not in "iuf" or values.dtype.itemsize > 8 or not values.size:
        raise ValueError(f"expected numbers [H, W, C], got {values.dtype} {list(values.shape)}")
    suffix = suffix.lower()
    able = raster_suffixes(values.dtype, values.shape[2], alpha)
    if suffix not in able:
        what = f"{values.shape[2]} channel{'s'[: values.shape[2] > 1]} of {values.dtype}"
        what += f" with {alpha} alpha" if alpha != "none" else ""
        raise UserError(f"{suffix or 'a file without a suffix'} cannot hold {what}: use {' or '.join(able)}")
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if suffix == ".png":
        return _png(values, text, profile)
    if suffix == ".npy":
        stream = io.BytesIO()
        np.save(stream, values, allow_pickle=False)
        return stream.getvalue()
    return _tiff(values, {"unit": unit} if unit else {}, alpha, text, profile)


def raster_suffixes(dtype: np.dtype[Any], channels: int, alpha: Alpha = "none") -> tuple[str, ...]:
    """The suffixes of files that hold such values, the one that most programs open first: .png if it can."""
    if alpha != "none" and channels not in (2, 4):
        raise ValueError(f"alpha is the last of 2 or 4 channels, got {channels}")
    return tuple(suffix for suffix in SUFFIXES if suffix != ".png" or _fits_png(dtype, channels, alpha))


def _png(values: NDArray[Any], text: str, profile: bytes | None) -> bytes:
    flat = values[:, :, 0] if values.shape[2] == 1 else values
    if values.dtype == np.uint8 or flat.ndim == 2:
        stream, chunks = io.BytesIO(), PngInfo()
        if text:
            chunks.add_text(KEY, text)
        Image.fromarray(flat).save(stream, "PNG", pnginfo=chunks, compress_level=_COMPRESSION, icc_profile=profile)
        return stream.getvalue()
    try:
        import imagecodecs
    except ModuleNotFoundError as error:
        raise UserError(
            '16-bit colour PNG needs imagecodecs, which is not installed: pip install "latent-ae[png16]", or write .tif'
        ) from error
    data = bytes(imagecodecs.png_encode(flat, level=_COMPRESSION))
    if not text:
        return data
    chunk = b"tEXt" + KEY.encode() + b"\0" + text.encode("ascii")
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:_PNG_HEADER] + whole + data[_PNG_HEADER:]


def _tiff(values: NDArray[Any], notes: dict[str, str], alpha: Alpha, text: str, profile: bytes | None) -> bytes:
    import tifffile

    channels, extra = values.shape[2], {"none": 0, "straight": 2, "premultiplied": 1}[alpha]
    colors = 3 if channels == 3 or (channels == 4 and extra) else 1
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        values[:, :, 0] if channels == 1 else values,
        photometric="rgb" if colors == 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=[0] * (channels - colors - bool(extra)) + [extra] * bool(extra),
        compression="zlib",
        iccprofile=profile,
        metadata=notes | ({KEY: text} if text else {}),
    )
    return stream.getvalue()


def _fits_png(dtype: np.dtype[Any], channels: int, alpha: Alpha) -> bool:
    with_alpha = {"none": (1, 3), "straight": (2, 4), "premultiplied": ()}
    return dtype.kind == "u" and dtype.itemsize <= 2 and channels in with_alpha[alpha]
