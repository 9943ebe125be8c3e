"""An autoencoder of another class of diffusers with the two sides of a stock one, for inference and measurements."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from latent_ae.models.adapters.normalisation import Normalisation, by_scaling_factor
from latent_ae.models.posterior import LOGVAR_RANGE

Config = Mapping[str, Any]
"""a config.json"""


def key(name: str) -> Callable[[Config], int]:
    """What a config says under a name."""
    return lambda config: int(config[name])


def halvings(levels: str) -> Callable[[Config], int]:
    """2**(n - 1) for the n levels of which a config has a list under this name."""
    return lambda config: int(2 ** (len(config[levels]) - 1))


_IN_CHANNELS, _LATENT_CHANNELS = key("in_channels"), key("latent_channels")


@dataclass(frozen=True)
class Row:
    """What holds for a class of autoencoders."""

    factor: Callable[[Config], int]
    """pixels per latent position along a side; the sides of images are padded to multiples of it"""
    normalisation: Callable[[Any], Normalisation] = by_scaling_factor
    """of the raw latents of a model, as the pipelines of its class do it"""
    image_channels: Callable[[Config], int] = _IN_CHANNELS
    latent_channels: Callable[[Config], int] = _LATENT_CHANNELS
    posterior: bool = True
    """whether the encoder gives moments; the latents are then the posterior's mode"""
    time_axis: bool = False
    """whether the class has videos, of which an image is one frame: [B,C,1,H,W]"""
    batches: bool = True
    """whether several images can be given at once"""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """arguments of `decode` besides the latents"""
    encoder_config: tuple[str, ...] = ()
    """keys of the config that change the latents without changing any weight's name or shape"""
    refused: Callable[[Config], str] = lambda _: ""
    """why a model of this config cannot be run, '' if it can"""


class Adapter(nn.Module):
    """A diffusers model of a class in ADAPTERS, run as diffusers wrote it, with the sides of a stock autoencoder.

    Its encoder gives moments, as AutoencoderKL's does: without a posterior the log-variances are the lowest there are.
    """

    quant_conv: None = None
    post_quant_conv: None = None

    def __init__(self, network: Any, row: Row) -> None:
        super().__init__()
        self.network, self.row = network, row
        self.training = network.training

    @property
    def config(self) -> dict[str, Any]:
        """That of the model, with the names that a stock config has for what is the same."""
        config = self.network.config
        channels = self.row.image_channels(config)
        scalar = self.row.normalisation is by_scaling_factor
        return {
            **config,
            "in_channels": channels,
            "out_channels": channels,
            "latent_channels": self.row.latent_channels(config),
            "scaling_factor": config.get("scaling_factor") if scalar else None,
            "shift_factor": config.get("shift_factor") if scalar else None,
        }

    @property
    def factor(self) -> int:
        """Pixels per latent position along a side."""
        return self.row.factor(self.network.config)

    @property
    def normalisation(self) -> Normalisation:
        """Of its latents, by its own pipelines."""
        return self.row.normalisation(self.network)

    @property
    def device(self) -> torch.device:
        """Of its weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    @property
    def encoder(self) -> nn.Module:
        """Pixels [B,C,H,W] in [-1, 1], of sides that the factor divides => moments [B,2c,h,w]."""
        return _Encoder(self.network, self.row)

    @property
    def decoder(self) -> nn.Module:
        """Raw latents [B,c,h,w] => pixels [B,C,H,W]."""
        return _Decoder(self.network, self.row)


class _Side(nn.Module, ABC):
    def __init__(self, network: Any, row: Row) -> None:
        super().__init__()
        self.network, self.row = network, row

    def forward(self, inputs: Tensor) -> Tensor:
        given = inputs[:, :, None] if self.row.time_axis else inputs
        outputs = self._own(given) if self.row.batches else torch.cat([self._own(each) for each in given.split(1)])
        return outputs[:, :, 0] if self.row.time_axis else outputs

    def _own(self, inputs: Tensor) -> Tensor:
        # Some classes keep what they compute as attributes of the model, and several threads may run it at once.
        return self.run(copy.copy(self.network), inputs)

    @abstractmethod
    def run(self, network: Any, inputs: Tensor) -> Tensor:
        """Inputs in the axes of the class => outputs likewise."""


class _Encoder(_Side):
    def run(self, network: Any, inputs: Tensor) -> Tensor:
        found = network.encode(inputs, return_dict=False)[0]
        values: Tensor = found if isinstance(found, Tensor) else found.parameters
        return values if self.row.posterior else torch.cat([values, torch.full_like(values, LOGVAR_RANGE[0])], dim=1)


class _Decoder(_Side):
    def run(self, network: Any, inputs: Tensor) -> Tensor:
        pixels: Tensor = network.decode(inputs, return_dict=False, **self.row.decoding)[0]
        return pixels
