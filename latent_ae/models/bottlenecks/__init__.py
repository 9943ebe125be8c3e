"""What happens between encoder and decoder: one file each, all behind one protocol.

A bottleneck is a module called with what the encoder side gives and the sample's noise,
`forward(h, noise) -> BottleneckOutput`, and always answers with the same fields. Those that quantise take the stock
model's codebook as their first argument.
"""

from collections.abc import Callable

from latent_ae.models.bottlenecks.ema_vq import EMAVQBottleneck
from latent_ae.models.bottlenecks.fsq import FSQBottleneck
from latent_ae.models.bottlenecks.gumbel import GumbelBottleneck
from latent_ae.models.bottlenecks.identity import IdentityBottleneck
from latent_ae.models.bottlenecks.kl import KLBottleneck
from latent_ae.models.bottlenecks.protocol import Bottleneck, BottleneckOutput
from latent_ae.models.bottlenecks.vq import VQBottleneck

BOTTLENECKS: dict[str, Callable[..., Bottleneck]] = {
    "kl": KLBottleneck,
    "identity": IdentityBottleneck,
    "vq": VQBottleneck,
    "ema_vq": EMAVQBottleneck,
    "fsq": FSQBottleneck,
    "gumbel": GumbelBottleneck,
}

__all__ = ["BOTTLENECKS", "Bottleneck", "BottleneckOutput", "KLBottleneck"]
