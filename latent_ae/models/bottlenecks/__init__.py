"""What happens between encoder and decoder: one file each, all behind one protocol.

A bottleneck is a module called with what the encoder side gives and the sample's noise,
`forward(h, noise) -> BottleneckOutput`, and always answers with the same fields. Those that quantise take the stock
model's codebook as their first argument.
"""

from collections.abc import Callable

from latent_ae.config import BottleneckConfig, LossConfig
from latent_ae.models.autoencoder import Autoencoder
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

__all__ = ["BOTTLENECKS", "Bottleneck", "BottleneckOutput", "KLBottleneck", "make_bottleneck"]


def make_bottleneck(autoencoder: Autoencoder, settings: BottleneckConfig, loss: LossConfig) -> Bottleneck:
    """The bottleneck of a stock autoencoder that settings ask for, on the autoencoder's own codebook if it has one."""
    return BOTTLENECKS[settings.kind](**_arguments(autoencoder, settings, loss))


def _arguments(autoencoder: Autoencoder, settings: BottleneckConfig, loss: LossConfig) -> dict[str, object]:
    if settings.kind == "kl":
        return {"free_bits": loss.free_bits}
    if settings.kind == "identity":
        return {}
    codebook = {"codebook": autoencoder.quantize.embedding}
    if settings.kind == "fsq":
        return {**codebook, "levels": settings.levels}
    if settings.kind == "gumbel":
        return {
            **codebook,
            "temperature": settings.temperature,
            "temperature_steps": settings.temperature_steps,
            "straight_through": settings.straight_through,
        }
    shared = {
        **codebook,
        "l2_normalized": settings.l2_normalized,
        "rotation_trick": settings.rotation_trick,
        "kmeans_start": settings.kmeans_start,
        "revive_below": settings.revive_below,
        "entropy": loss.entropy_weight > 0,
        "entropy_temperature": loss.entropy_temperature,
    }
    return {**shared, "decay": settings.decay} if settings.kind == "ema_vq" else shared
