"""What happens between encoder and decoder: one file each, all behind one protocol.

A bottleneck is a module called with what the encoder side gives and the sample's noise,
`forward(h, noise) -> BottleneckOutput`, and always answers with the same four fields.
"""

from collections.abc import Callable

from torch import nn

from latent_ae.models.bottlenecks.kl import KLBottleneck
from latent_ae.models.bottlenecks.output import BottleneckOutput

BOTTLENECKS: dict[str, Callable[..., nn.Module]] = {"kl": KLBottleneck}

__all__ = ["BOTTLENECKS", "BottleneckOutput", "KLBottleneck"]
