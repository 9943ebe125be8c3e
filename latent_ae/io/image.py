"""The only border between files, PIL images, uint8 arrays and tensors.

    file -> open_image -> PIL image -> to_uint8 -> uint8 HWC -> to_tensor -> float32 CHW in [-1, 1]
    file <- save_png  <- image_grid  <-            uint8 HWC <- from_tensor <- float  CHW or NCHW

Values are sRGB: a file's colour profile is applied as it is opened, unless it is asked to be kept.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image_file import color, tiff
from latent_ae.io.image_file.containers import place_kept
from latent_ae.io.image_file.opening import FORMATS, SUFFIXES, opened, upright

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "WHITE",
    "BrokenImage",
    "Color",
    "ColorRule",
    "Pixels",
    "from_tensor",
    "image_grid",
    "in_srgb",
    "open_image",
    "remarks",
    "require_visible",
    "save_png",
    "to_pil",
    "to_tensor",
    "to_uint8",
]

Pixels = NDArray[np.uint8]
"""[H, W, C] uint8, C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)"""
Color = tuple[int, int, int]
"""R, G, B in 0..255"""
ColorRule = Literal["convert", "keep"]
"""convert values to sRGB by the file's colour profile, or keep values and profile as they are"""

WHITE: Color = (255, 255, 255)

_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_INVISIBLE = "every pixel of it is transparent: take its alpha channel away to use the colours beneath"
_GAP_PIXELS = 2
_REMARKS = "latent_ae.remarks"
_KEPT = ("transparency", "icc_profile", _REMARKS)


def open_image(
    file: Path | BinaryIO,
    *,
    formats: tuple[str, ...] = FORMATS,
    check: Callable[[Image.Image], None] | None = None,
    colors: ColorRule = "convert",
    limited: bool = False,
) -> Image.Image:
    """The first frame of an image file, decoded, turned upright by its EXIF orientation, in sRGB by its profile.

    What kind of file it is follows from its content, not from its name. The image no longer needs `file`, which stays
    open if it was. `remarks` says what a person should know about how it was read.

    Args:
        file: a path or an open stream.
        formats: a choice from FORMATS.
        check: sees the image when its header has been read and before a pixel is decoded; the UserError that it may
            raise goes to the caller.
        colors: with "keep", RGB values stay as they are, and the profile that they belong to is `info["icc_profile"]`
            of the result. Grey and CMYK are converted all the same.
        limited: for strangers' files: PIL's own limit of pixels (`PIL.Image.MAX_IMAGE_PIXELS`) holds.

    Raises BrokenImage if `file` cannot be read, is not one of `formats`, is cut short or
    damaged, is a camera raw file, or its values have no meaning in sRGB (HDR, signed integers).
    """
    with opened(file, formats=formats, limited=limited) as image:
        if check is not None:
            check(image)
        if image.format == "TIFF":
            tiff.check(image)
        profile = color.declared_profile(image)
        opaque = _has_no_alpha(image)
        _widen_transparent_grey(image)
        image.load()
        if min(image.size) < 1:
            raise BrokenImage(f"it has no pixels ({image.width}x{image.height})")
        whole = upright(image)
        if image.format == "TIFF":
            whole = tiff.in_full_range(whole, image.tag_v2)  # type: ignore[attr-defined]
        if opaque:
            whole = whole.convert("RGB")
        whole.info.pop("icc_profile", None)
        said: str | None = None
        if profile is not None and (mode := color.color_mode(whole)) is not None:
            whole, said = in_srgb(whole, profile, mode, keep=colors == "keep")
        whole = whole.copy() if whole is image else whole  # a copy holds on to no file
        whole.info = {key: value for key, value in whole.info.items() if key in _KEPT}
        whole.info[_REMARKS] = () if said is None else (said,)
        return whole


def remarks(image: Image.Image) -> tuple[str, ...]:
    """What a person should know about how `open_image` read the file, each to follow on its name: had colours of ..."""
    return tuple(image.info.get(_REMARKS, ()))


def in_srgb(
    image: Image.Image, profile: color.Profile, mode: str, *, keep: bool = False
) -> tuple[Image.Image, str | None]:
    """The image, of colour mode `mode`, in sRGB or with its profile, and a remark on what was done."""
    if not color.changes_colors(profile, mode):
        return image, color.remark_on(profile, mode)
    if keep and mode == "RGB":
        image.info["icc_profile"] = profile.icc
        return image, f"has colours of {color.profile_name(profile)}, which were kept"
    if mode == "CMYK" or (image.mode == mode and not image.has_transparency_data):
        return color.to_srgb(image, profile), color.remark_on(profile, mode)
    pixels, alpha = _straight(image)
    converted = color.to_srgb(to_pil(pixels), profile)
    if alpha is not None:
        converted.putalpha(Image.fromarray(alpha[:, :, 0]))
    return converted, color.remark_on(profile, mode)


def to_uint8(image: Image.Image, channels: int, background: Color = WHITE, *, whole: bool = True) -> Pixels:
    """Any PIL image, upright by its EXIF orientation -> [H, W, channels] uint8.

    With 1 (grey) or 3 (RGB) channels transparent pixels are laid over `background`; with 2 (grey) or 4 (RGB) the last
    one is alpha, which does not change the others. Grey is PIL's luma (ITU-R 601). 16-bit grey (modes
    I;16 and I) goes from 0..65535 to 0..255, rounded; PIL itself cuts 16-bit colour to its upper 8 bits. Floats (mode
    F) are in [0, 1]. Raises BrokenImage for values outside of these ranges and where every pixel is transparent (unless
    `whole` is False: a part of an image may be), ValueError for another number of channels.
    """
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"pictures have 1 (grey) to 4 (RGBA) channels, got {channels}")
    pixels, alpha = _straight(upright(image))
    if channels in (2, 4):
        alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8) if alpha is None else alpha
        return np.concatenate([_with_channels(pixels, channels - 1), alpha], axis=2)
    if whole and alpha is not None and not alpha.any():
        raise BrokenImage(_INVISIBLE)
    if alpha is not None:
        pixels = _over(pixels, alpha, background)
    return _with_channels(pixels, channels)


def require_visible(image: Image.Image) -> None:
    """Raise BrokenImage for a picture of mode RGBA or LA of which every pixel is transparent."""
    if image.getchannel("A").getextrema()[1] == 0:
        raise BrokenImage(_INVISIBLE)


def to_pil(pixels: Pixels) -> Image.Image:
    """[H, W, 1 to 4] uint8 -> PIL image of mode L, LA, RGB or RGBA."""
    _check_pixels(pixels)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """[H, W, C] uint8 -> [C, H, W] float32 in [-1, 1]: v / 127.5 - 1."""
    _check_pixels(pixels)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32, order="C")).div_(127.5).sub_(1)


def from_tensor(images: torch.Tensor) -> Pixels:
    """[C, H, W] or [N, C, H, W] of any float type and device -> uint8 [H, W, C] or [N, H, W, C].

    [-1, 1] goes to 0..255, rounded to the nearest with halves upwards; values outside of [-1, 1] are clipped.
    Undoes `to_tensor` exactly. Raises ValueError for NaN, which would otherwise pass as black.
    """
    if images.ndim not in (3, 4) or not images.is_floating_point():
        raise ValueError(f"expected floats [C, H, W] or [N, C, H, W], got {images.dtype} {list(images.shape)}")
    if images.isnan().any():
        raise ValueError(f"the image holds NaN in {int(images.isnan().sum())} of {images.numel()} values")
    levels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy())


def save_png(path: Path, pixels: Pixels) -> None:
    """Write [H, W, 1 to 4] uint8 as a PNG, whole or not at all; the folder must exist. Raises OSError."""
    stream = io.BytesIO()
    to_pil(pixels).save(stream, format="PNG")
    write_atomically(path, stream.getvalue())


def image_grid(rows: Sequence[Sequence[Pixels] | Pixels]) -> Pixels:
    """Lists of [H, W, C] uint8 (or arrays [N, H, W, C]), one a row -> one [H, W, C] uint8 with white gaps.

    Images may differ in size: a row is as high as its highest and a column as wide as its widest image, which start
    in the upper left. Grey becomes RGB if any image is RGB. Raises ValueError if there are no images.
    """
    cells = [list(row) for row in rows]
    images = [image for row in cells for image in row]
    if not images:
        raise ValueError("a grid needs at least one image, got none")
    for image in images:
        _check_pixels(image)
    heights = [max((image.shape[0] for image in row), default=0) for row in cells]
    columns = max(len(row) for row in cells)
    widths = [max(row[i].shape[1] for row in cells if i < len(row)) for i in range(columns)]
    size = (sum(heights) + _GAP_PIXELS * (len(heights) - 1), sum(widths) + _GAP_PIXELS * (len(widths) - 1))
    grid = np.full((*size, max(image.shape[2] for image in images)), 255, np.uint8)
    for row, cells_of_row in enumerate(cells):
        top = sum(heights[:row]) + _GAP_PIXELS * row
        for column, image in enumerate(cells_of_row):
            left = sum(widths[:column]) + _GAP_PIXELS * column
            grid[top : top + image.shape[0], left : left + image.shape[1]] = image
    return grid


def _has_no_alpha(image: Image.Image) -> bool:
    """Whether a TGA says that the fourth byte of its pixels is not alpha, which PIL takes it for."""
    if image.format != "TGA" or image.mode != "RGBA":
        return False
    stream: BinaryIO = image.fp  # type: ignore[attr-defined]
    with place_kept(stream):
        stream.seek(17)
        return stream.read(1)[0] & 0x0F == 0


def _widen_transparent_grey(image: Image.Image) -> None:
    """Bring the transparent grey of a 2- or 4-bit PNG to the 8 bits that PIL decodes its pixels to."""
    if image.format == "PNG" and isinstance(image.info.get("transparency"), int) and image.mode == "L":
        tiles = getattr(image, "tile", [])
        image.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(tiles[0].args if tiles else "", 1)


def _straight(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """A loaded image -> [H, W, 1 or 3] uint8 not multiplied by alpha, and alpha [H, W, 1] uint8 if it has any."""
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image)
    if image.mode == "F":
        return _from_float(np.asarray(image)), None
    if image.has_transparency_data:
        key = image.info.get("transparency")
        if isinstance(key, tuple) and max(key) > 255:
            raise BrokenImage("PIL cuts 16-bit colour to 8 bits, so its transparent colour cannot be told: remove it")
        if image.mode == "La":  # PIL has no direct way from here to RGBA
            image = image.convert("LA")
        rgba = np.array(image.convert("RGBA"))
        return rgba[:, :, :3], rgba[:, :, 3:]
    if image.mode in ("1", "L"):
        return np.array(image if image.mode == "L" else image.convert("L"))[:, :, None], None
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), None


def _from_sixteen_bit(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    values = np.asarray(image).astype(np.int64 if image.mode == "I" else np.uint32)
    if values.min() < 0 or values.max() > 65535:
        raise BrokenImage(f"expected integers in 0..65535 in mode {image.mode}, got {values.min()}..{values.max()}")
    key = image.info.get("transparency")
    alpha = None if key is None else np.where(values == key, 0, 255).astype(np.uint8)[:, :, None]
    return ((values + 128) // 257).astype(np.uint8)[:, :, None], alpha


def _from_float(values: NDArray[np.float32]) -> Pixels:
    # One meaning only: whether 0..255 is meant cannot be told from a dark image.
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise BrokenImage(f"expected floats in [0, 1] in mode F, got {values.min():g}..{values.max():g}")
    return np.floor(values.astype(np.float64) * 255 + 0.5).astype(np.uint8)[:, :, None]


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Grey or RGB [H, W, 1 or 3] uint8 as grey or RGB."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=2)
    return np.array(Image.fromarray(pixels).convert("L"))[:, :, None]


def _over(pixels: Pixels, alpha: Pixels, background: Color) -> Pixels:
    """Lay straight pixels [H, W, 1 or 3] with alpha over a colour -> [H, W, 3], rounded to the nearest."""
    opacity = alpha.astype(np.uint32)
    blend = opacity * pixels + (255 - opacity) * np.array(background, np.uint32)
    return ((blend + 127) // 255).astype(np.uint8)


def _check_pixels(pixels: Pixels) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"expected pixels [H, W, 1 to 4] uint8, got {pixels.dtype} {list(pixels.shape)}")
