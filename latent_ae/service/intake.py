"""Uploads to pixels and latents. Everything is checked on sizes and headers before anything large is allocated."""

import hashlib
import io
import math
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from latent_ae.io.image import BrokenImage, Pixels, open_image, remarks, to_pil, to_uint8
from latent_ae.io.image_file.opening import other_kind
from latent_ae.io.latent_file.foreign import LatentForm, Taken, take_latents
from latent_ae.io.latent_file.header import Limits, read_header
from latent_ae.io.latent_file.latents import LatentFileError, Latents, from_bytes
from latent_ae.service.errors import BadLatents, BadRequest, BrokenUpload, TooLarge, UnsupportedFormat
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.results import ModelInfo

READ = "JPEG, PNG, WebP, BMP and TIFF"
_MOST_SCANS = 50
"""of a progressive JPEG, which has about 10: a scan of nothing takes 33 bytes and the time of a whole image"""
_FRAME_SIDE = 256
"""longest side of pictures between images, in pixels"""


@dataclass(frozen=True)
class Upload:
    """A file's bytes, not more than the server takes."""

    data: bytes
    stem: str
    """of its name, or '' """

    @property
    def sha256(self) -> str:
        """Of its bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def read_upload(file: bytes | Path, limits: ServiceLimits) -> Upload:
    """Raises TooLarge for more than `limits.upload_bytes`, BrokenUpload for a file that is empty or cannot be read."""
    if isinstance(file, Path):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for somebody to write
                raise BrokenUpload("the upload is no ordinary file")
            if status.st_size > limits.upload_bytes:
                raise _too_many_bytes(status.st_size, limits)
            with file.open("rb") as stream:  # the file may have grown since
                data = stream.read(limits.upload_bytes + 1)
        except OSError as error:
            raise BrokenUpload(f"the uploaded file cannot be read: {error.strerror}") from error
    elif isinstance(file, bytes):
        data = file
    else:
        raise BadRequest(f"an upload is bytes or a Path, got {type(file).__name__}")
    if len(data) > limits.upload_bytes:
        raise _too_many_bytes(len(data), limits)
    if not data:
        raise BrokenUpload("the uploaded file is empty")
    return Upload(data, file.stem if isinstance(file, Path) else "")


class Picture(NamedTuple):
    """An uploaded image."""

    pixels: Pixels
    """[H,W,C] uint8, upright, in sRGB, transparency over white"""
    remarks: tuple[str, ...]
    """what a person should know about how it was read, each to follow on: the image"""


def read_image(upload: Upload, *, channels: int, limits: ServiceLimits) -> Picture:
    """With that number of channels.

    What kind of file it is follows from its content. Raises UnsupportedFormat for other kinds than READ, TooLarge for
    too many pixels and for animations, both before a pixel is decoded, and BrokenUpload for a damaged file.
    """
    kind = _kind(upload.data)
    if kind == "WEBP":
        _check_webp(upload.data, limits)
    if kind == "JPEG" and (scans := upload.data.count(b"\xff\xda")) > _MOST_SCANS:
        raise TooLarge(f"the JPEG has {scans} scans, this server takes at most {_MOST_SCANS}: save it anew")
    try:
        image = open_image(
            io.BytesIO(upload.data), formats=(kind,), check=lambda image: _check_header(image, limits), limited=True
        )
        return Picture(to_uint8(image, channels), remarks(image))
    except BrokenImage as error:
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise TooLarge(
                f"the image has far more pixels than this server takes, at most {limits.pixels / 1e6:.1f} million"
            ) from error
        unknown = isinstance(error.__context__, UnidentifiedImageError)
        raise BrokenUpload(
            f"the {kind} file is damaged: {'its header cannot be read' if unknown else error.reason}"
        ) from error


def read_latents(upload: Upload, limits: ServiceLimits) -> Latents:
    """Latents whose images, all together, have at most `limits.pixels`. Raises BadLatents or TooLarge."""
    bounds = _latent_limits(limits)
    try:
        header = read_header(upload.data, limits=bounds)
        *_, h, w = header.main.shape
        check_pixels(h * header.factor, w * header.factor, limits, count=header.main.shape[0])
        return from_bytes(upload.data, limits=bounds)
    except LatentFileError as error:
        raise BadLatents(str(error)) from error


def read_foreign_latents(upload: Upload, info: ModelInfo, limits: ServiceLimits) -> Taken:
    """The same of latents that `info`'s model is said to decode, whatever encoder their file names."""
    form = LatentForm(info.id, info.encoder, info.factor, info.latent_channels, info.codebook_size)
    try:
        taken = take_latents(upload.data, form, limits=_latent_limits(limits))
    except LatentFileError as error:
        raise BadLatents(str(error)) from error
    h, w = taken.latents.grid
    check_pixels(h * info.factor, w * info.factor, limits, count=taken.latents.count)
    return taken


def check_latents(latents: Latents, info: ModelInfo) -> None:
    """Raise BadLatents unless they have the form of the model's, whatever encoder they say that they are of."""
    if info.codebook_size is None:
        fits = latents.kind != "vq_indices" and latents.tensor.shape[1] == info.latent_channels
    else:
        fits = latents.kind == "vq_indices" and latents.codebook_size == info.codebook_size
    if not fits or latents.factor != info.factor or min(latents.padding) < 0:
        raise BadLatents(f"these latents do not have the form of {info.id}'s, although they say that they are of it")


def frame_size(image: Pixels, frames: int, limits: ServiceLimits) -> tuple[int, int]:
    """Height and width of `frames` pictures like `image`: no side above _FRAME_SIDE, all together within the limit."""
    height, width = image.shape[:2]
    scale = min(1.0, _FRAME_SIDE / max(height, width), math.sqrt(limits.pixels / (frames * height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))


def fitted(image: Pixels, height: int, width: int) -> Pixels:
    """Scaled to cover height x width, and its middle cut out."""
    if image.shape[:2] == (height, width):
        return image
    return to_uint8(ImageOps.fit(to_pil(image), (width, height), Image.Resampling.LANCZOS), image.shape[2])


def check_pixels(height: int, width: int, limits: ServiceLimits, *, count: int = 1) -> None:
    """Raise TooLarge for an image with too long a side, or for images with too many pixels together."""
    if max(height, width) > limits.side:
        raise TooLarge(
            f"the image is {width}x{height} pixels, and a side may have at most {limits.side}: scale it down"
        )
    if count * height * width > limits.pixels:
        what = (
            f"the image is {width}x{height} pixels" if count == 1 else f"these are {count} images of {width}x{height}"
        )
        raise TooLarge(
            f"{what}, {count * height * width / 1e6:.1f} million in all, and this server takes at most "
            f"{limits.pixels / 1e6:.1f} million: scale it down"
        )


def _kind(data: bytes) -> str:
    """PIL's name of the format. Raises UnsupportedFormat."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    name = "a GIF" if data.startswith(b"GIF8") else other_kind(data[:264])
    if name is None and data[4:8] == b"ftyp":
        name = "an AVIF"
    raise UnsupportedFormat(f"the upload is {name or 'no image of a kind that is known'}; {READ} are read")


def _check_header(image: Image.Image, limits: ServiceLimits) -> None:
    check_pixels(image.height, image.width, limits)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile = tags.get(322, 1), tags.get(323, 1)
        if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > limits.pixels:
            raise TooLarge(f"the TIFF has tiles of {tile[0]}x{tile[1]} pixels")
        # Counting a TIFF's pages means to walk through all of them, and a small file can hold millions.
        if _has_second_page(image):
            raise TooLarge("the TIFF has several pages: send one image")
    elif image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise TooLarge("the image is animated: send one frame")


def _has_second_page(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _latent_limits(limits: ServiceLimits) -> Limits:
    return Limits(tensor_bytes=limits.upload_bytes, images=limits.samples, side=limits.side)


def _check_webp(data: bytes, limits: ServiceLimits) -> None:
    """A WebP's own header: PIL sets aside two canvases of its size as it opens one."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        if data[20] & 2:
            raise TooLarge("the image is animated: send one frame")
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and len(data) >= 30:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    else:
        raise BrokenUpload("the WEBP file is damaged: it ends within its header")
    check_pixels(height, width, limits)


def _too_many_bytes(size: int, limits: ServiceLimits) -> TooLarge:
    return TooLarge(
        f"the upload has {size / 1e6:.1f} MB or more, and this server takes at most {limits.upload_bytes / 1e6:.1f} MB"
    )
