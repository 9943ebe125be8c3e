"""What a service returns: images in the data's units, files as bytes, numbers with their names."""

import dataclasses
import re
from dataclasses import dataclass

from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import DTYPES, SUFFIX, Compute, Dtype, LatentFileError, Latents, to_bytes
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.errors import BadRequest
from latent_ae.service.limits import require_choice
from latent_ae.service.uploads import Upload


@dataclass(frozen=True)
class Encoded:
    """An image as latents."""

    latents: Latents
    file: bytes
    """the latent file"""
    file_name: str
    remarks: tuple[str, ...] = ()
    """what a person should know about how the image was read, each continues: the image"""

    def in_float16(self) -> bytes | None:
        """The latent file with its floats in float16; None for codes, and for values beyond float16."""
        if self.latents.kind == "vq_indices":
            return None
        try:
            return to_bytes(self.latents, dtype="float16")
        except LatentFileError:
            return None


@dataclass(frozen=True)
class Size:
    """One form of an image, and how large it is."""

    what: str
    bytes: int
    bits_per_pixel: float


@dataclass(frozen=True)
class Baseline:
    """An image after a classical codec at about as many bytes."""

    name: str
    """JPEG or WebP"""
    image: Pixels
    bytes: int
    quality: int
    metrics: dict[str, float | None]
    reached: bool
    """False if its lowest quality takes more bytes"""


@dataclass(frozen=True)
class Reconstruction:
    """An image, its reconstruction, and what was measured."""

    model: str
    pixel_format: PixelFormat
    """of both images"""
    original: Array
    """as the model takes it: upright, over white, grey for a grey model"""
    reconstructed: Array
    encoded: Encoded
    metrics: dict[str, float | None]
    """PSNR in dB, SSIM, LPIPS, and of numbers MAE, RMSE and MAX in their units; None if it cannot be measured"""
    notes: dict[str, str]
    """why a metric is None, by its name"""
    sizes: tuple[Size, ...]
    """upload, latents in float32 and float16, or codes"""
    decoding: Compute
    """how the decoder ran; `encoded.latents.compute` is the encoder's"""
    seam_db: float | None
    """PSNR of the decoder's tiles against each other where they overlap; None for an image in one piece"""
    seconds: float
    """that the model worked: without waiting, reading and measuring"""
    unlike: str = ""
    """how the image differs from those that the model was trained on, a sentence; '' if it hardly does"""
    baselines: tuple[Baseline, ...] = ()
    """if they were requested"""

    @property
    def previews(self) -> tuple[Pixels, Pixels]:
        """The original and the reconstruction as pictures for people."""
        return self.pixel_format.preview(self.original), self.pixel_format.preview(self.reconstructed)


@dataclass(frozen=True)
class Images:
    """Decoded, drawn or interpolated images."""

    model: str
    pixel_format: PixelFormat
    images: tuple[Array, ...]
    """in its units"""
    note: str
    """what to know before they are trusted; '' if nothing"""
    seconds: float
    """that the model worked: without waiting, reading and measuring"""
    decoding: Compute
    """how the decoder ran; all images have one size"""
    seam_db: tuple[float | None, ...] = ()
    """of each image, as in Reconstruction; empty if it was not measured"""

    @property
    def previews(self) -> tuple[Pixels, ...]:
        """The images as pictures for people."""
        return tuple(map(self.pixel_format.preview, self.images))


@dataclass(frozen=True)
class Inspection:
    """What is in an image's latents, beside what was measured over the training images."""

    model: str
    histogram: tuple[tuple[float, float, float], ...]
    """(middle of the bin, share of the scaled latents in it, share under N(0, 1)); empty for a VQModel"""
    channels: tuple[dict[str, float | None], ...]
    """by latent channel: mean, std, kl_nats (of an image) and active_share over the training images, None if they were
    not measured; image_mean, image_std and image_kl_nats of this image. Empty for a VQModel"""
    codebook: dict[str, float | int] | None
    """used, codebook_size, perplexity, entropy_bits of this image's codes"""
    code_counts: tuple[int, ...] | None
    channel_images: tuple[Pixels, ...]
    """each latent channel, or the grid of codes, as a picture"""
    text: str
    """a few sentences for people"""


def check_options(info: ModelInfo, *, seed: int | None, dtype: Dtype | None, logvar: bool) -> None:
    """Raise BadRequest for an unknown dtype, and for an option that has no effect on the codes of a VQ model."""
    require_choice("dtype", dtype or "float32", tuple(DTYPES))
    given = [
        name for name, value in (("seed", seed), ("dtype", dtype), ("logvar", logvar or None)) if value is not None
    ]
    if info.codebook_size is not None and given:
        raise BadRequest(f"{given[0]} has no effect on the codes of {info.id}, which are integers: leave it out")


def encoded(
    info: ModelInfo,
    upload: Upload,
    latents: Latents,
    remarks: tuple[str, ...],
    *,
    seed: int | None = None,
    dtype: Dtype | None = None,
    logvar: bool = False,
) -> Encoded:
    """The latent file of an upload, named after it.

    Raises BadRequest for a seed or log-variance of a model without a posterior, and for values beyond float16.
    """
    if (seed is not None and latents.kind != "sample") or (logvar and latents.logvar is None):
        name = "logvar" if seed is None else "seed"
        raise BadRequest(f"{name} has no effect on the latents of {info.id}, which has no posterior: leave it out")
    # The codec's own name is a path of the server.
    latents = dataclasses.replace(latents, model=info.id, sources=(upload.sha256,), seed=seed)
    try:
        data = to_bytes(latents, dtype=dtype or "float32")
    except LatentFileError as error:
        raise BadRequest(str(error)) from error
    stem = re.sub(r"[^\w.-]+", "-", upload.stem)[:80].strip("-.") or "latents"
    return Encoded(latents, data, f"{stem}{SUFFIX}", remarks)


def sizes(upload: Upload, image: Array, latents: Latents) -> tuple[Size, ...]:
    """Bytes and bits per pixel of the upload, and of bare latents or packed codes without a file's header."""
    values = latents.tensor[0].numel()
    if latents.codebook_size is None:
        forms = [("latents in float32", 4 * values), ("latents in float16", 2 * values)]
    else:
        bits = code_bits(latents.codebook_size)
        forms = [(f"codes of {bits} bits", -(-values * bits // 8))]
    pixels = image.shape[0] * image.shape[1]
    return tuple(Size(what, size, 8 * size / pixels) for what, size in [("upload", len(upload.data)), *forms])


def code_bits(size: int) -> int:
    """Bits of an index into a codebook of `size`: ceil(log2 size), at least 1."""
    return max(1, (size - 1).bit_length())
