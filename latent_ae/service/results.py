"""What a service answers: pictures as uint8, files as bytes, numbers with their names."""

from dataclasses import dataclass
from typing import Any

from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import Compute, Latents


@dataclass(frozen=True)
class ModelInfo:
    """A model of the list, for people and programs."""

    id: str
    kind: str
    """AutoencoderKL or VQModel"""
    encoder: str
    """identity, 64 hex digits"""
    channels: int
    """1 (grey) or 3 (RGB)"""
    factor: int
    latent_channels: int
    codebook_size: int | None
    parameters: int
    scaling_factor: float | None
    shift_factor: float | None
    encoder_precision: str
    decoder_precision: str
    device: str
    """cpu, or an accelerator as cuda:0"""
    card: str
    """Markdown of the model's README.md without its front matter, or ''"""
    stats: dict[str, Any] | None
    """latent_stats.json, None if there is none"""
    native_size: int | None
    """side in pixels of the images it was trained on, where its config says it"""
    learned_prior: int | None = None
    """side in pixels of what its learned prior draws, where it has one"""


@dataclass(frozen=True)
class Encoded:
    """An image as latents."""

    latents: Latents
    file: bytes
    """the latent file"""
    file_name: str
    remarks: tuple[str, ...] = ()
    """what a person should know about how the image was read, each to follow on: the image"""


@dataclass(frozen=True)
class Size:
    """What something weighs."""

    what: str
    bytes: int
    bits_per_pixel: float


@dataclass(frozen=True)
class Rival:
    """A classical codec at the same number of bytes."""

    name: str
    """JPEG or WebP"""
    image: Pixels
    bytes: int
    quality: int
    metrics: dict[str, float | None]
    reached: bool
    """False where its lowest quality still takes more bytes"""


@dataclass(frozen=True)
class Reconstruction:
    """An image, what a model makes of it, and the difference."""

    model: str
    original: Pixels
    """as the model sees it: upright, over white, grey for a grey model"""
    reconstructed: Pixels
    encoded: Encoded
    metrics: dict[str, float | None]
    """PSNR in dB, SSIM, LPIPS by name; None where it cannot be had"""
    notes: dict[str, str]
    """why a metric is None, by its name"""
    sizes: tuple[Size, ...]
    """upload, latents in float32 and float16, or codes"""
    decoding: Compute
    """how the decoder ran; `encoded.latents.compute` says it of the encoder"""
    seam_db: float | None
    """agreement of the decoder's tiles where they overlap, as PSNR; None where the image went through whole"""
    seconds: float
    rivals: tuple[Rival, ...] = ()
    """where they were asked for"""


@dataclass(frozen=True)
class Images:
    """Decoded, drawn or interpolated images."""

    model: str
    images: tuple[Pixels, ...]
    note: str
    """what to know before they are believed; '' if nothing"""
    seconds: float
    decoding: Compute
    """how the decoder ran; all images have one size"""
    seam_db: tuple[float | None, ...] = ()
    """agreement of each image's tiles where they overlap, as PSNR; empty where it was not measured"""


@dataclass(frozen=True)
class Inspection:
    """What is in an image's latents, beside what was measured over the training images."""

    model: str
    histogram: tuple[tuple[float, float, float], ...]
    """(middle of the bin, share of the scaled latents in it, share under N(0, 1)); of a VQModel empty"""
    channels: tuple[dict[str, float | None], ...]
    """by latent channel: mean, std, kl_nats (of an image) and active_share over the training images, None where they
    were not measured; image_mean, image_std and image_kl_nats of this image. Of a VQModel empty"""
    codebook: dict[str, float | int] | None
    """used, codebook_size, perplexity, entropy_bits of this image's codes"""
    code_counts: tuple[int, ...] | None
    channel_images: tuple[Pixels, ...]
    """each latent channel, or the grid of codes, as a picture"""
    text: str
    """a few sentences for people"""
