"""Uploads to pixels and latents. Sizes and headers are checked before anything large is allocated."""

import dataclasses
import hashlib
import io
import math
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from latent_ae.inference.image_reading import fitted, read_numbers
from latent_ae.io.coloring import has_color
from latent_ae.io.image import BrokenImage, open_image, remarks
from latent_ae.io.latent_file.foreign import LatentForm, Taken, take_latents
from latent_ae.io.latent_file.header import Limits, read_header
from latent_ae.io.latent_file.latents import LatentFileError, Latents, from_bytes
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.io.rasters import raster_shape
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.errors import BadLatents, BadRequest, BrokenUpload, TooLarge
from latent_ae.service.limits import ServiceLimits, check_pixels
from latent_ae.service.picture_headers import check_header, check_webp, format_of, other_frames
from latent_ae.service.suitability import conversions

File = bytes | Path
"""an upload"""

_MAX_JPEG_SCANS = 50
"""a progressive JPEG has about 10; an empty scan takes 33 bytes and the time of a whole image"""
_SCALED_PIXELS = 4
"""as many times the limit may a picture have that is scaled down"""
_VALUES_PER_PIXEL = 4
"""of an image of numbers with as many pixels as are taken; smaller ones may have more channels"""
_MAX_FRAME_SIDE = 256
"""of interpolated images, in pixels"""


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


class Picture(NamedTuple):
    """An uploaded image."""

    pixels: Array
    """[H,W,C] in the units of the model's pixel format; pictures upright and in sRGB"""
    remarks: tuple[str, ...]
    """what a person should know about how the file was read, each continues: the image"""
    colored: bool = False
    """whether the file has colours, which a grey model does not keep"""


def read_upload(file: File, limits: ServiceLimits) -> Upload:
    """Raises TooLarge for more than `limits.upload_bytes`, BrokenUpload for a file that is empty or cannot be read."""
    if isinstance(file, Path):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for a writer
                raise BrokenUpload("the upload is not an ordinary file")
            with file.open("rb") as stream:
                data = stream.read(limits.upload_bytes + 1)
        except OSError as error:
            raise BrokenUpload(f"the uploaded file cannot be read: {error.strerror}") from error
        size = max(status.st_size, len(data))
    elif isinstance(file, bytes):
        data, size = file, len(file)
    else:
        raise BadRequest(f"an upload must be bytes or a Path, got {type(file).__name__}")
    if size > limits.upload_bytes:
        raise TooLarge(
            f"the upload has {size / 1e6:.1f} MB or more, and this server takes at most "
            f"{limits.upload_bytes / 1e6:.1f} MB"
        )
    if not data:
        raise BrokenUpload("the uploaded file is empty")
    return Upload(data, file.stem if isinstance(file, Path) else "")


def read_image(upload: Upload, *, pixels: PixelFormat, limits: ServiceLimits, max_pixels: int | None = None) -> Picture:
    """The image in an upload, as the pixel format says: a picture, or the numbers of a file.

    The format follows from the content; of several frames or pages it is the first. With `max_pixels` a larger picture
    is scaled down to so many pixels, or to those of the limits if these are fewer, and may have _SCALED_PIXELS times
    those of the limits before. Raises UnsupportedFormat, TooLarge for too many pixels before one is decoded, and
    BrokenUpload for a damaged file and for numbers of other channels than the model's.
    """
    if pixels.numbers:
        return _read_numbers(upload, pixels, limits)
    return _read_picture(upload, pixels, limits, max_pixels)


def _read_numbers(upload: Upload, pixels: PixelFormat, limits: ServiceLimits) -> Picture:
    stream = io.BytesIO(upload.data)
    try:
        height, width, channels = raster_shape(stream, limited=True)
        check_pixels(height, width, limits)
        if height * width * channels > _VALUES_PER_PIXEL * limits.pixels:
            raise TooLarge(
                f"the image has {height * width * channels / 1e6:.1f} million values in {channels} channels, and this "
                f"server takes at most {_VALUES_PER_PIXEL * limits.pixels / 1e6:.1f} million: scale it down"
            )
        read = read_numbers(stream, pixels, limited=True)
        return Picture(read.array, read.remarks)
    except BrokenImage as error:
        raise BrokenUpload(f"the file cannot be used: {error.reason}") from error


def _read_picture(upload: Upload, pixels: PixelFormat, limits: ServiceLimits, max_pixels: int | None) -> Picture:
    kind, bounds, told = format_of(upload.data), limits, list[str]()
    if max_pixels is not None:
        max_pixels = min(max_pixels, limits.pixels)
        bounds = dataclasses.replace(limits, pixels=_SCALED_PIXELS * limits.pixels)
    if kind == "WEBP":
        check_webp(upload.data, bounds)
    if kind == "JPEG" and (scans := upload.data.count(b"\xff\xda")) > _MAX_JPEG_SCANS:
        raise TooLarge(f"the JPEG has {scans} scans, this server takes at most {_MAX_JPEG_SCANS}: save it again")

    def check(image: Image.Image) -> None:
        check_header(image, bounds)
        if frames := other_frames(image):
            told.append(frames)
        if max_pixels is not None and (scale := math.sqrt(max_pixels / (image.width * image.height))) < 1:
            told.append(f"was scaled down from {image.width * image.height / 1e6:.1f} million pixels")
            if kind == "JPEG":  # whose decoder halves an image for less than it decodes it for
                image.draft(image.mode, (round(2 * scale * image.width), round(2 * scale * image.height)))

    try:
        image = open_image(io.BytesIO(upload.data), formats=(kind,), check=check, limited=True)
        told += (*remarks(image), *conversions(image, pixels))
        if max_pixels is not None:
            image = scaled_down(image, max_pixels)
        return Picture(pixels.array(image), tuple(told), colored=pixels.channels < 3 and has_color(image))
    except BrokenImage as error:
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise TooLarge(
                f"the image has far more pixels than this server takes, at most {limits.pixels / 1e6:.1f} million"
            ) from error
        unknown = isinstance(error.__context__, UnidentifiedImageError)
        raise BrokenUpload(
            f"the {kind} file is damaged: {'its header cannot be read' if unknown else error.reason}"
        ) from error


def scaled_down(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image, with no more than so many pixels."""
    scale = math.sqrt(max_pixels / (image.width * image.height))
    if scale >= 1:
        return image
    if image.mode in ("1", "P"):  # which cannot be mixed
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    size = max(1, int(scale * image.width)), max(1, int(scale * image.height))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def read_frames(files: Sequence[File], *, pixels: PixelFormat, count: int, limits: ServiceLimits) -> list[Array]:
    """The images of uploads, scaled and cropped to one size: the first's, or a smaller one that `count` fit in."""
    frames: list[Array] = []
    for file in files:
        image = read_image(read_upload(file, limits), pixels=pixels, limits=limits).pixels
        size = frames[0].shape[:2] if frames else frame_size(image, count, limits)
        frames.append(fitted(image, *size))
    return frames


def frame_size(image: Array, count: int, limits: ServiceLimits) -> tuple[int, int]:
    """Height and width of `count` frames like `image`: no side above _MAX_FRAME_SIDE, together within the limit."""
    height, width = image.shape[:2]
    scale = min(1.0, _MAX_FRAME_SIDE / max(height, width), math.sqrt(limits.pixels / (count * height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))


def read_latents(upload: Upload, limits: ServiceLimits) -> Latents:
    """The latents in an upload. Raises BadLatents, and TooLarge for images with too many pixels together."""
    bounds = _latent_limits(limits)
    try:
        header = read_header(upload.data, limits=bounds)
        *_, h, w = header.main.shape
        check_pixels(h * header.factor, w * header.factor, limits, count=header.main.shape[0])
        return from_bytes(upload.data, limits=bounds)
    except LatentFileError as error:
        raise BadLatents(str(error)) from error


def read_foreign_latents(upload: Upload, info: ModelInfo, limits: ServiceLimits) -> Taken:
    """Latents that `info`'s model shall decode, whatever encoder their file names. Raises as `read_latents`."""
    form = LatentForm(info.id, info.encoder, info.factor, info.latent_channels, info.codebook_size, info.pixel_format)
    try:
        taken = take_latents(upload.data, form, limits=_latent_limits(limits))
    except LatentFileError as error:
        raise BadLatents(str(error)) from error
    h, w = taken.latents.grid
    check_pixels(h * info.factor, w * info.factor, limits, count=taken.latents.count)
    return taken


def check_latents(latents: Latents, info: ModelInfo) -> None:
    """Raise BadLatents unless they have the form of the model's, and are of its pixels."""
    if info.codebook_size is None:
        fits = latents.kind != "vq_indices" and latents.tensor.shape[1] == info.latent_channels
    else:
        fits = latents.kind == "vq_indices" and latents.codebook_size == info.codebook_size
    if not fits or latents.factor != info.factor or min(latents.padding) < 0:
        raise BadLatents(f"the file names the encoder of {info.id}, but its latents do not have that model's form")
    try:
        latents.require_pixels(info.pixel_format)
    except LatentFileError as error:
        raise BadLatents(str(error)) from error


def _latent_limits(limits: ServiceLimits) -> Limits:
    return Limits(tensor_bytes=limits.upload_bytes, images=limits.samples, side=limits.side)
