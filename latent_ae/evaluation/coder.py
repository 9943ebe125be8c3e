"""A model over the images that it is measured on: at once, and in strips of rows where an image is large.

Strips give the values of the whole image at once up to the order of sums, in memory that grows far slower.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from diffusers import VQModel
from torch import Tensor

from latent_ae.allocator import release_free_memory
from latent_ae.inference.codebook import Codebook
from latent_ae.inference.memory import available_bytes, peak_bytes
from latent_ae.inference.sides import DecoderSide, EncoderSide, Format, Side
from latent_ae.inference.streamed import StreamedSide, streamed
from latent_ae.inference.strips import Tick
from latent_ae.models import AnyAutoencoder, factor_of, latent_channels, pad_to_factor
from latent_ae.models.encode_decode import Encoded, decode_latents, encode_pixels
from latent_ae.models.posterior import split_moments

PIXELS_AT_ONCE = 1024 * 1024
"""of the largest image that goes through a model at once, unless a setting says otherwise"""

_RELEASED_EVERY = 0.03
"""of the work of a side"""


class _Sides(NamedTuple):
    """Of a model, in strips."""

    encoder: StreamedSide
    decoder: StreamedSide


class Coder:
    """Encodes and decodes for measurements, in float32. The model has to be in evaluation mode, under `inference`."""

    def __init__(self, model: AnyAutoencoder, pixels_at_once: int = PIXELS_AT_ONCE) -> None:
        """Images of more than `pixels_at_once` go through in strips, if the model has layers that can."""
        self._model, self._factor = model, factor_of(model)
        self._pixels_at_once = pixels_at_once
        self._codebook = Codebook(model.quantize.embedding) if isinstance(model, VQModel) else None

    def in_strips(self, height: int, width: int) -> bool:
        """Whether an image of this size in pixels goes through in strips."""
        return self._strips(height, width) is not None

    def encode(self, pixels: Tensor) -> Encoded:
        """As `encode_pixels`: [B, C, H, W] in [-1, 1] => what the model makes of them, on its device."""
        if (sides := self._strips(*pixels.shape[2:])) is None:
            return encode_pixels(self._model, pixels)
        with _float32_convolutions():
            outputs = sides.encoder(self._multiple(pixels).to(self._model.device), _releasing())
        release_free_memory()
        if self._codebook is None:
            return Encoded(outputs, *split_moments(outputs), None)
        codes = self._codebook.nearest(outputs)
        return Encoded(outputs, self._codebook.vectors(codes), None, codes)

    def decode(self, latents: Tensor) -> Tensor:
        """As `decode_latents`: raw latents [B, c, h, w] that `encode` gave => pixels, neither clamped nor cropped."""
        if (sides := self._strips(*(self._factor * side for side in latents.shape[2:]))) is None:
            return decode_latents(self._model, latents)
        with _float32_convolutions():
            decoded: Tensor = sides.decoder(latents.to(self._model.device, torch.float32), _releasing())
        release_free_memory()
        return decoded

    def predicted_bytes(self, count: int, height: int, width: int) -> int:
        """What `count` images of this size in pixels take at the peak of a side, beside the model."""
        return self._bytes(self._strips(height, width), count, height, width)

    def _strips(self, height: int, width: int) -> _Sides | None:
        """The sides that an image of this size in pixels goes through; None for those of the model itself.

        On a GPU, where strips have not been timed, only what does not fit goes through in strips; not on others than
        NVIDIA's, as strips add up in float64.
        """
        device = self._model.device
        if self._padded(height) * self._padded(width) <= self._pixels_at_once or device.type not in ("cpu", "cuda"):
            return None
        if device.type == "cuda" and self._bytes(None, 1, height, width) <= available_bytes(device):
            return None
        return self._sides

    def _bytes(self, strips: _Sides | None, count: int, height: int, width: int) -> int:
        height, width = self._padded(height), self._padded(width)
        latents = (count, latent_channels(self._model), height // self._factor, width // self._factor)
        shapes = ((count, int(self._model.config["in_channels"]), height, width), latents)
        taken = [
            peak_bytes(side, shape, torch.float32, channels_last=bool(strips), device=self._model.device.type)
            for side, shape in zip(strips or (EncoderSide(self._model), DecoderSide(self._model)), shapes, strict=True)
        ]
        if strips is None and self._codebook is not None:  # the stock quantiser has all distances at once
            taken.append(4 * self._codebook.size * count * math.prod(latents[2:]))
        return max(taken)

    @cached_property
    def _sides(self) -> _Sides | None:
        modules = EncoderSide(self._model), DecoderSide(self._model)
        if modules[0].as_written:
            return None
        form = Format("fp32", channels_last=True, winograd=self._model.device.type == "cpu")
        encoder, decoder = (streamed(Side(module, form).module) for module in modules)
        if encoder is None or decoder is None:
            return None
        encoder.kept_share = decoder.kept_share = 0.0  # a tenth more work, for a quarter less memory
        return _Sides(encoder, decoder)

    def _padded(self, side: int) -> int:
        return -(-side // self._factor) * self._factor

    def _multiple(self, pixels: Tensor) -> Tensor:
        """Padded to the factor; themselves where nothing is missing, as a copy of a large image would be in the way."""
        fits = all(side % self._factor == 0 for side in pixels.shape[2:])
        return pixels if fits else pad_to_factor(pixels, self._factor)


def _releasing() -> Tick:
    """Gives back what the C library keeps of freed strips now and then, which would come to as much again."""
    done = 0.0

    def tick(share: float) -> None:
        nonlocal done
        done += share
        if done > _RELEASED_EVERY:
            done = 0.0
            release_free_memory()

    return tick


@contextmanager
def _float32_convolutions() -> Iterator[None]:
    """On a GPU, whose convolutions torch would round to TF32's 10 bits."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield
