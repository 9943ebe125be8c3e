"""A model's two sides, each ready to run in a number format of its own.

encoder side: pixels  --encoder, quant_conv-------> moments or vectors
decoder side: latents --post_quant_conv, decoder--> pixels
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent_ae.inference.fused import fuse
from latent_ae.models import AnyAutoencoder, latent_channels
from latent_ae.models.adapters import Adapter

_DTYPES = {
    "exact": torch.float32,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class EncoderSide(nn.Module):
    """Pixels [B,C,H,W] => moments [B,2c,h,w], or vectors [B,c,h,w] of VQModel."""

    def __init__(self, model: AnyAutoencoder) -> None:
        super().__init__()
        self.channels = latent_channels(model)
        """c: the first half of the moments is the mean"""
        self.as_written = isinstance(model, Adapter)
        """whether it runs as diffusers wrote it in every precision: the layers of other classes are not known here"""
        self.encoder: Any = model.encoder
        self.quant_conv = model.quant_conv

    def forward(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(pixels)
        return hidden if self.quant_conv is None else self.quant_conv(hidden)


class DecoderSide(nn.Module):
    """Latents, or the vectors of codes, [B,c,h,w] => pixels [B,C,H,W]; nothing is quantised."""

    def __init__(self, model: AnyAutoencoder) -> None:
        super().__init__()
        self.channels = int(model.config["out_channels"])
        self.as_written = isinstance(model, Adapter)
        self.post_quant_conv = model.post_quant_conv
        self.decoder: Any = model.decoder
        self.spatial = model.config.get("norm_type") == "spatial"

    def forward(self, latents: Tensor) -> Tensor:
        hidden = latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        pixels: Tensor = self.decoder(hidden, latents) if self.spatial else self.decoder(hidden)
        return pixels


@dataclass(frozen=True)
class Format:
    """Numbers and their order in memory."""

    precision: str
    """exact, fp32, bf16 or fp16; or tf32: float32 that a GPU's convolutions round to 10 bits"""
    channels_last: bool = False
    winograd: bool = False
    """whether convolutions of many channels are computed by Winograd's algorithm"""

    @property
    def stock(self) -> bool:
        """Whether the module runs as diffusers wrote it: float32 in torch's own order; fused otherwise."""
        return self.precision == "exact" or self == Format("fp32")

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return _DTYPES[self.precision]

    def __str__(self) -> str:
        return f"{self.precision}{' channels-last' * self.channels_last}{' Winograd' * self.winograd}"


class Side:
    """A side made ready to run in a format: float32 in, float32 out, on the device of its weights.

    It shares the weights of the model where they are in this format already, and has a copy otherwise: the model that
    was given stays what it is.
    """

    module: EncoderSide | DecoderSide

    def __init__(self, module: EncoderSide | DecoderSide, form: Format) -> None:
        self.form = form
        self._layout = torch.channels_last if form.channels_last else torch.contiguous_format
        # The scores of its attention are rounded, for which the check leaves room in latents and little in pixels.
        half_encoder = isinstance(module, EncoderSide) and form.dtype != torch.float32
        as_it_is = form.stock or module.as_written
        self.module = module if as_it_is else fuse(module, attention=half_encoder, winograd=form.winograd)
        if any(not self._fits(weight) for weight in self.module.parameters()):
            self.module = copy.deepcopy(self.module).to(form.dtype)
            self.module.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's types lack it
        self.device = next(self.module.parameters()).device

    def __call__(self, inputs: Tensor, streamed: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Run the side, or what stands for it: the same in strips (`streamed.StreamedSide`)."""
        layout = self._layout if streamed is None else torch.channels_last
        values = inputs.to(self.device, self.form.dtype).contiguous(memory_format=layout)
        # TensorFloat-32 is torch's default for convolutions on a GPU, and none of what is promised as float32.
        tf32 = self.form.precision == "tf32"
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=self.form.precision == "exact", allow_tf32=tf32
        ):
            outputs: Tensor = (streamed or self.module)(values)
        return outputs.float().contiguous()

    def _fits(self, weight: Tensor) -> bool:
        return weight.dtype == self.form.dtype and weight.is_contiguous(memory_format=self._layout)
