"""A model made ready to encode and decode images of any size: what the command line and the service work with.

images --pad, group by size--> encoder (its precision) --> Latents --> decoder (its precision) --crop--> images
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from diffusers import VQModel
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.inference.batching import Grid, Tick, part_of
from latent_ae.inference.both_sides import BothSides, Ran
from latent_ae.inference.codebook import Codebook
from latent_ae.inference.memory import Plan
from latent_ae.inference.precision import DECODER_DEFAULT, ENCODER_DEFAULT, Precision, SideName, choose
from latent_ae.inference.timing import Pace
from latent_ae.io.latent_file.latents import Compute, Kind, Latents
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.models import AnyAutoencoder, factor_of, latent_channels, load_any_autoencoder, pad_to_factor
from latent_ae.models.autoencoder import class_name, normalisation_of
from latent_ae.models.loading import load_pixel_format
from latent_ae.models.naming import model_name
from latent_ae.models.parts import encoder_identity
from latent_ae.models.posterior import sample_posterior, split_moments
from latent_ae.randomness import sample_noise

_ENCODING_SHARE = 0.3
"""of the work of a reconstruction, in the usual architectures"""


class Decoded(NamedTuple):
    """A decoded image."""

    image: Array
    """[H,W,C] in the units and dtype of the model's pixel format"""
    compute: Compute
    seam_db: float | None
    """PSNR of its tiles to one another where they overlap; None where it went through whole"""
    encoding: Compute | None = None
    """how it was encoded, of a reconstruction"""


class Codec:
    """One model, its encoder and its decoder each in a precision of its own. Not thread-safe.

    The given model stays as it was, in float32.
    """

    def __init__(
        self,
        model: AnyAutoencoder,
        *,
        name: str,
        pixel_format: PixelFormat | None = None,
        precision: Precision | None = None,
        tile: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """`auto` precisions are chosen by what the device can do and by their error; see `precision.choose`.

        Args:
            model: in float32, on its device.
            name: for people.
            pixel_format: of the images; None: pictures of the model's channels.
            precision: of both sides: `auto`, `exact` (float32, and every image alone: the same bits in any batch, and
                in any process of as many threads; an image that does not fit into memory whole goes through in strips
                and its `Compute` says `fp32`), `fp32`, `bf16` or `fp16`. None: `fp32` for the encoder, because
                latents are kept, and `auto` for the decoder.
            tile: side in pixels: larger images are processed in overlapping tiles of this size, an approximation.
                None: never; large images go through in strips of rows, with the values that the whole image has.
            memory_bytes: that a call may take by prediction; None: what is free at that time.

        Raises UserError for a precision that the device cannot compute, a tile that is too small, and a pixel format
        of another number of channels.
        """
        self.model = model.eval()
        self.name = name
        self.memory_bytes = memory_bytes
        self.identity = encoder_identity(model)
        self.factor = factor_of(model)
        self.channels = int(model.config["in_channels"])
        self.pixel_format = pixel_format or PixelFormat.picture(self.channels)
        if self.pixel_format.channels != self.channels:
            raise UserError(
                f"the pixel format has {self.pixel_format.channels} channels, the model {name} takes {self.channels}"
            )
        self.codebook = Codebook(model.quantize.embedding) if isinstance(model, VQModel) else None
        self.is_vq = self.codebook is not None
        self.codebook_size = self.codebook.size if self.codebook else None
        self.latent_channels = latent_channels(model)
        self.scaling_factor: float | None = model.config.get("scaling_factor")
        self.shift_factor: float | None = model.config.get("shift_factor")
        self.normalisation = normalisation_of(model)
        """what a diffusion model sees of the raw latents: `applied(latents)`, and back: `undone`"""
        self.tile = tile
        asked = precision or ENCODER_DEFAULT, precision or DECODER_DEFAULT
        encoder, decoder, self.precision = choose(model, *asked, bits=16 if self.pixel_format.is_deep else 8)
        self._sides = BothSides(
            encoder,
            decoder,
            self.precision,
            name=name,
            channels=self.channels,
            latent_channels=self.latent_channels,
            factor=self.factor,
            tile=tile,
            memory_bytes=memory_bytes,
            numbers=self.pixel_format.numbers,
        )
        self.tiling = self._sides.tiling

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: torch.device | str | None = None,
        precision: Precision | None = None,
        tile: int | None = None,
        memory_bytes: int | None = None,
    ) -> "Codec":
        """Load a model directory, hub id or single file onto a device (None: the CPU).

        The rest is as in the constructor. Raises ModelError if there is no such model, UserError if nothing says what
        the pixels of its images mean.
        """
        model = load_any_autoencoder(name).to(device or "cpu")
        form = load_pixel_format(name, model)
        return cls(model, name=name, pixel_format=form, precision=precision, tile=tile, memory_bytes=memory_bytes)

    @cached_property
    def paces(self) -> tuple[Pace, Pace]:
        """How long encoding and decoding take here, by what they take on a small image now. Decides no result."""
        return self._sides.paces

    def plan(self, height: int, width: int) -> Plan:
        """What an image of this size in pixels would take. The first call times a small image, see `paces`."""
        return self._sides.plan(self._grid(height, width))

    def compute(self, side: SideName, height: int, width: int) -> Compute:
        """How a side would process an image of this size in pixels now."""
        return self._sides.compute(side, self._grid(height, width))

    def advice(self, side: SideName, height: int, width: int) -> str:
        """What would fit in place of an image of this size in pixels over which the memory ran out, in words."""
        return self._sides.advice(side, self._grid(height, width))

    def require_room(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Raise DoesNotFit if there is no memory to decode an image of one of these heights and widths."""
        self._sides.require_room("decoder", [self._grid(*size) for size in sizes])

    def encode(
        self, images: Sequence[Array], *, seed: int | None = None, logvar: bool = False, tick: Tick | None = None
    ) -> list[Latents]:
        """Images [H,W,C] of any sizes => the latents of each (N = 1), in their order.

        A side that the model's factor does not divide is padded at its end by repeating the last row or column.

        Args:
            images: in the units of the pixel format: uint8 for pictures, any type for numbers, which are clipped to
                the format's range.
            seed: of a sample from the posterior, image i's being the seed's i-th; None: the posterior's mode.
            logvar: also keep the posterior's log-variance.
            tick: is called as the work goes on.

        Raises DoesNotFit before anything is encoded, and UserError for another number of channels and for values that
        are not finite.
        """
        for image in images:
            self._check(image)
        grids = [self._grid(*image.shape[:2]) for image in images]
        done = {
            ran.place: self._latents(ran, images[ran.place], seed, logvar=logvar)
            for ran in self._sides.run(
                "encoder",
                grids,
                lambda place: pad_to_factor(self.pixel_format.to_tensor(images[place])[None], self.factor),
                tick,
            )
        }
        return [done[place] for place in range(len(images))]

    def decode(self, latents: Sequence[Latents], *, tick: Tick | None = None) -> list[Array]:
        """The images of `decode_measured`."""
        return [each.image for each in self.decode_measured(latents, tick=tick)]

    def decode_measured(self, latents: Sequence[Latents], *, tick: Tick | None = None) -> list[Decoded]:
        """Latents of any sizes => their images, those of the first Latents first, and how each was decoded.

        Raises WrongEncoder for latents of another encoder or of other pixels, UserError for others that are not this
        model's, and DoesNotFit, all before anything is decoded.
        """
        sizes = [(each.height, each.width) for each in latents for _ in range(each.count)]
        vectors = [vector for each in latents for vector in self._decodable(each).split(1)]
        done: dict[int, Decoded] = {}
        for place, pixels, compute, seam_db in self._decode(vectors, tick):
            height, width = sizes[place]
            image = self.pixel_format.from_tensor(pixels[0, :, :height, :width])
            done[place] = Decoded(image, compute, seam_db)
        return [done[place] for place in range(len(sizes))]

    def reconstruct(self, images: Sequence[Array], *, tick: Tick | None = None) -> list[Array]:
        """The images of `reconstruct_measured`."""
        return [each.image for each in self.reconstruct_measured(images, tick=tick)]

    def reconstruct_measured(self, images: Sequence[Array], *, tick: Tick | None = None) -> list[Decoded]:
        """Encode images and decode their latents. Raises as `encode` does."""
        self.require_room([(image.shape[0], image.shape[1]) for image in images])
        first = None if tick is None else part_of(tick, 0.0, _ENCODING_SHARE)
        second = None if tick is None else part_of(tick, _ENCODING_SHARE, 1.0)
        latents = self.encode(images, tick=first)
        decoded = self.decode_measured(latents, tick=second)
        return [made._replace(encoding=given.compute) for made, given in zip(decoded, latents, strict=True)]

    def vectors(self, latents: Latents) -> Tensor:
        """[N,c,h,w] float32 that the decoder takes: the latents themselves, or the codes' vectors.

        Raises UserError for codes that the model does not have.
        """
        if latents.kind != "vq_indices":
            return latents.tensor.float()
        if self.codebook is None:
            raise UserError(f"the model {self.name} has no codebook, and the latents are codes: take a VQModel")
        return self.codebook.vectors(latents.tensor)

    def encode_tensor(self, pixels: Tensor, *, tick: Tick | None = None) -> Tensor:
        """Pixels [B,C,H,W] in [-1, 1] => raw latents [B,c,h,w] float32: the mode, or the codes' vectors; on the CPU.

        Raises DoesNotFit.
        """
        padded, grid = pad_to_factor(pixels, self.factor), self._grid(*pixels.shape[-2:])
        outputs = self._sides.run("encoder", [grid] * len(pixels), lambda place: padded[place : place + 1], tick)
        return torch.cat([self._quantised(each.output[:, : self.latent_channels]).cpu() for each in outputs])

    def decode_tensor(self, vectors: Tensor, *, tick: Tick | None = None) -> Tensor:
        """Raw latents or vectors [B,c,h,w] => pixels [B,C,H,W] float32, clamped to [-1, 1], on the CPU.

        A VQModel decodes the codes nearest to the vectors. Raises DoesNotFit.
        """
        inputs = [self._quantised(vector) for vector in vectors.split(1)]
        return torch.cat([each.output for each in self._decode(inputs, tick)])

    def _decode(self, vectors: Sequence[Tensor], tick: Tick | None) -> Iterator[Ran]:
        """The decoder over vectors [1,c,h,w] of any sizes; pixels [1,C,H,W] are clamped to [-1, 1]."""
        grids = [(vector.shape[-2], vector.shape[-1]) for vector in vectors]
        for ran in self._sides.run("decoder", grids, vectors.__getitem__, tick):
            yield ran._replace(output=ran.output.clamp(-1.0, 1.0))

    def _latents(self, ran: Ran, image: Array, seed: int | None, *, logvar: bool) -> Latents:
        """The encoder's output for one image as its latents."""
        outputs, place = ran.output, ran.place
        kind: Kind = "mean"
        spread = None
        if self.codebook is not None:
            tensor, kind = self.codebook.nearest(outputs), "vq_indices"
        else:
            tensor, spread = split_moments(outputs)
        if seed is not None and spread is not None:
            noise = sample_noise(seed, place, 1, tuple(tensor.shape[1:]))
            tensor, kind = sample_posterior(tensor, spread, noise), "sample"
        return Latents(
            kind=kind,
            tensor=tensor.contiguous(),
            logvar=spread.contiguous() if logvar and spread is not None else None,
            encoder=self.identity,
            height=image.shape[0],
            width=image.shape[1],
            factor=self.factor,
            codebook_size=self.codebook_size,
            scaling_factor=self.scaling_factor,
            shift_factor=self.shift_factor,
            pixel_format=None if self.pixel_format.is_default else self.pixel_format,
            model=model_name(self.name),
            encoder_class=class_name(self.model),
            compute=ran.compute,
        )

    def _check(self, image: Array) -> None:
        """Raise UserError for an image that `encode` does not take."""
        channels = image.shape[2] if image.ndim == 3 else 0
        if channels != self.channels:
            what = f"has {channels} channels" if channels else f"is an array {list(image.shape)} and not [H,W,C]"
            raise UserError(f"the image {what}, the model {self.name} takes {self.channels} channels: convert it")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise UserError(f"the image holds {int((~np.isfinite(image)).sum())} values that are not finite")

    def _decodable(self, latents: Latents) -> Tensor:
        """The vectors [N,c,h,w] to decode, after the checks of `decode_measured`."""
        latents.require_encoder(self.identity)
        latents.require_pixels(self.pixel_format)
        if min(latents.padding) < 0 or latents.factor != self.factor:
            h, w = latents.grid
            raise UserError(
                f"the latents have {w}x{h} positions of {self.factor} pixels for an image of "
                f"{latents.width}x{latents.height}: they do not cover it"
            )
        vectors = self.vectors(latents)
        if latents.kind == "vq_indices":
            return vectors
        return torch.cat([self._quantised(vector) for vector in vectors.split(1)])

    def _quantised(self, vectors: Tensor) -> Tensor:
        """The codes' vectors nearest to vectors [B,c,h,w]; of an AutoencoderKL these vectors themselves."""
        if vectors.shape[1] != self.latent_channels:
            raise UserError(
                f"the latents have {vectors.shape[1]} channels, the model {self.name} {self.latent_channels}"
            )
        return vectors.float() if self.codebook is None else self.codebook.vectors(self.codebook.nearest(vectors))

    def _grid(self, height: int, width: int) -> Grid:
        return -(-height // self.factor), -(-width // self.factor)
