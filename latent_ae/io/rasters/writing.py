"""Image files that hold numbers without loss: PNG where it can, TIFF and NumPy's .npy for every type."""

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_ae.errors import UserError
from latent_ae.io.atomic import write_atomically

Alpha = Literal["none", "straight", "premultiplied"]
"""whether the last of 2 or 4 channels is alpha, and whether the others are multiplied by it"""

_SUFFIXES = (".png", ".tif", ".tiff", ".npy")


def write_raster(path: Path, values: NDArray[Any], *, unit: str = "", alpha: Alpha = "none") -> None:
    """Write [H, W, C] numbers without loss, whole or not at all; the folder must exist.

    Args:
        path: .png, .tif, .tiff or .npy.
        values: integers or floats of up to 64 bits.
        unit: of the values, such as HU. TIFF records it.
        alpha: what the last channel is. TIFF records it.

    Raises UserError for a suffix that cannot hold the values, with those that can; OSError.
    """
    if values.ndim != 3 or values.dtype.kind not in "iuf" or values.dtype.itemsize > 8 or not values.size:
        raise ValueError(f"expected numbers [H, W, C], got {values.dtype} {list(values.shape)}")
    suffix = path.suffix.lower()
    able = raster_suffixes(values.dtype, values.shape[2], alpha)
    if suffix not in able:
        what = f"{values.shape[2]} channel{'s'[: values.shape[2] > 1]} of {values.dtype}"
        what += f" with {alpha} alpha" if alpha != "none" else ""
        raise UserError(f"{path}: {suffix or 'a file without a suffix'} cannot hold {what}: use {' or '.join(able)}")
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    write_atomically(path, _encoded(suffix, native, unit, alpha))


def raster_suffixes(dtype: np.dtype[Any], channels: int, alpha: Alpha = "none") -> tuple[str, ...]:
    """The suffixes of files that hold such values, the one that most programs open first: .png if it can."""
    if alpha != "none" and channels not in (2, 4):
        raise ValueError(f"alpha is the last of 2 or 4 channels, got {channels}")
    return tuple(suffix for suffix in _SUFFIXES if suffix != ".png" or _fits_png(dtype, channels, alpha))


def _encoded(suffix: str, values: NDArray[Any], unit: str, alpha: Alpha) -> bytes:
    if suffix == ".png":
        return _png(values)
    if suffix == ".npy":
        stream = io.BytesIO()
        np.save(stream, values, allow_pickle=False)
        return stream.getvalue()
    return _tiff(values, unit, alpha)


def _png(values: NDArray[Any]) -> bytes:
    flat = values[:, :, 0] if values.shape[2] == 1 else values
    if values.dtype == np.uint8 or flat.ndim == 2:
        stream = io.BytesIO()
        Image.fromarray(flat).save(stream, "PNG")
        return stream.getvalue()
    try:
        import imagecodecs
    except ModuleNotFoundError as error:
        raise UserError(
            '16-bit colour PNG needs imagecodecs, which is not installed: pip install "latent-ae[png16]", or write .tif'
        ) from error
    return bytes(imagecodecs.png_encode(flat))


def _tiff(values: NDArray[Any], unit: str, alpha: Alpha) -> bytes:
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
        metadata={"unit": unit} if unit else {},
    )
    return stream.getvalue()


def _fits_png(dtype: np.dtype[Any], channels: int, alpha: Alpha) -> bool:
    with_alpha = {"none": (1, 3), "straight": (2, 4), "premultiplied": ()}
    return dtype.kind == "u" and dtype.itemsize <= 2 and channels in with_alpha[alpha]
