"""The Python interface: load a model, encode images to latents, decode them."""

import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
from PIL import Image

from latent_ae.device import device_named
from latent_ae.errors import BrokenImage, UserError
from latent_ae.inference import Codec, Precision
from latent_ae.inference.image_reading import PLAIN, read_image
from latent_ae.io.image import to_pil
from latent_ae.io.latent_file.latents import Latents
from latent_ae.io.pixel_format import Array
from latent_ae.shipped import DEFAULT

__all__ = ["VAE", "ImageLike", "load"]

ImageLike: TypeAlias = str | Path | Image.Image | Array
"""path of an image file; PIL image in sRGB; or array [H,W,C] with the model's number of channels, uint8 for pictures"""

_log = logging.getLogger("latent_ae")


def load(
    model: str | Path = DEFAULT,
    *,
    device: str | None = None,
    precision: Precision | None = None,
    tile: int | None = None,
) -> "VAE":
    """Load an autoencoder for inference.

    Args:
        model: model directory, run directory, single file (.safetensors, .ckpt, .pt), Hugging Face hub id, or the name
            of a model that comes with the package.
        device: for example "cpu" or "cuda:1". None: an accelerator if there is one, else the CPU.
        precision: of the arithmetic: "auto", "exact", "fp32", "bf16" or "fp16". None: "fp32" for the encoder and "auto"
            for the decoder.
        tile: tile side in pixels. Larger images are processed in overlapping tiles, an approximation that takes less
            memory. None: images are processed whole.

    Raises UserError if the model or device does not exist, or the device does not support the precision.
    """
    return VAE(Codec.load(str(model), device=device_named(device), precision=precision, tile=tile))


class VAE:
    """An autoencoder for inference, made by `latent_ae.load`. Not thread-safe.

    `codec` is the underlying `latent_ae.inference.Codec`, which works on arrays and tensors; `codec.model` is the
    diffusers model.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    @overload
    def encode(  # type: ignore[overload-overlap]  # a str is a sequence of str too
        self, images: ImageLike, *, seed: int | None = None, logvar: bool = False
    ) -> Latents: ...

    @overload
    def encode(
        self, images: Sequence[ImageLike], *, seed: int | None = None, logvar: bool = False
    ) -> list[Latents]: ...

    def encode(
        self, images: ImageLike | Sequence[ImageLike], *, seed: int | None = None, logvar: bool = False
    ) -> Latents | list[Latents]:
        """Encode one image, or a list of images of any sizes.

        Pictures in files are rotated by their orientation tag and converted to sRGB by their colour profile. Models of
        numbers take the values of files, and arrays in the same units: `codec.pixel_format` says which. Other changes
        on reading are logged as warnings. Latents of a file record its sha256.

        Args:
            images: paths, PIL images (of models of pictures) or arrays [H,W,C].
            seed: seed of a sample from the posterior. None: the posterior's mode, which is deterministic.
            logvar: also keep the posterior's log-variance.

        Returns one `Latents` for one image, a list for a list. Raises OSError for a file that cannot be read, UserError
        for a file that is not an image, an array of another shape, images that do not fit into memory, and for `seed`
        or `logvar` with a model that has no posterior.
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            return self._encode([images], seed, logvar)[0]
        return self._encode(images, seed, logvar)

    @overload
    def decode(self, latents: Latents) -> Image.Image | Array: ...

    @overload
    def decode(self, latents: Sequence[Latents]) -> list[Image.Image] | list[Array]: ...

    def decode(self, latents: Latents | Sequence[Latents]) -> Image.Image | Array | list[Image.Image] | list[Array]:
        """Decode the latents of one image, or a list of latents, to images of the original sizes.

        Pictures are PIL images of mode L, LA, RGB or RGBA; numbers are arrays [H,W,C] in the data's units and type.

        Returns one image for one `Latents`, a list of all images for a list. Raises UserError for latents of another
        encoder, for one `Latents` that holds several images, and for images that do not fit into memory.
        """
        if isinstance(latents, Latents):
            if latents.count != 1:
                raise UserError(f"got latents of {latents.count} images, expected 1: decode([latents]) returns a list")
            return self.decode([latents])[0]
        images, pixels = self.codec.decode(latents), self.codec.pixel_format
        return images if pixels.numbers else [to_pil(pixels.straight(image)) for image in images]

    def _encode(self, images: Sequence[ImageLike], seed: int | None, logvar: bool) -> list[Latents]:
        read = [self._read(image) for image in images]
        made = self.codec.encode([pixels for pixels, _ in read], seed=seed, logvar=logvar)
        if any((seed is not None and each.kind != "sample") or (logvar and each.logvar is None) for each in made):
            raise UserError(f"{self.codec.name} has no posterior: leave out seed and logvar")
        return [
            replace(latents, sources=(digest,), versions={**latents.versions, **PLAIN.record(self.codec.pixel_format)})
            if digest is not None
            else latents
            for latents, (_, digest) in zip(made, read, strict=True)
        ]

    def _read(self, image: ImageLike) -> tuple[Array, str | None]:
        """The image [H,W,C], and the sha256 of a file."""
        pixels = self.codec.pixel_format
        if isinstance(image, np.ndarray):
            if not pixels.numbers and (image.dtype != np.uint8 or image.ndim != 3):
                raise UserError(f"got an array of {image.dtype} {list(image.shape)}, expected uint8 [H,W,C]")
            return image, None
        if isinstance(image, Image.Image):
            if pixels.numbers:
                raise UserError(
                    f"got a PIL image, expected an array [H,W,C] or a path: the model takes {pixels.describe()}"
                )
            return pixels.array(image), None
        if not isinstance(image, str | Path):
            raise TypeError(
                f"got an image of type {type(image).__name__}, expected a path, a PIL image or an array [H,W,C]; "
                "codec.encode_tensor takes tensors"
            )
        data = Path(image).read_bytes()
        try:
            read = read_image(io.BytesIO(data), pixels)
        except BrokenImage as error:
            raise BrokenImage(error.reason, str(image)) from error
        for remark in read.remarks:
            _log.warning("%s %s", image, remark)
        return read.array, hashlib.sha256(data).hexdigest()
