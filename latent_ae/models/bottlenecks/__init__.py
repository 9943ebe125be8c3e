"""What happens between encoder and decoder: one file a kind, with the module and its settings.

A bottleneck is a module called with what the encoder side gives and the sample's noise,
`forward(h, noise) -> BottleneckOutput`, and always answers with the same fields.
"""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from latent_ae.config import LossConfig
from latent_ae.config.kinds import Kinds
from latent_ae.models.bottlenecks.ema_vq import EMAVQConfig
from latent_ae.models.bottlenecks.fsq import FSQConfig
from latent_ae.models.bottlenecks.gumbel import GumbelConfig
from latent_ae.models.bottlenecks.identity import IdentityConfig
from latent_ae.models.bottlenecks.kl import KLConfig
from latent_ae.models.bottlenecks.protocol import Bottleneck, BottleneckConfig, BottleneckOutput
from latent_ae.models.bottlenecks.vq import VQConfig

__all__ = ["BOTTLENECKS", "AnyBottleneck", "Bottleneck", "BottleneckConfig", "BottleneckLoss", "BottleneckOutput"]

BOTTLENECKS: dict[str, type[BottleneckConfig]] = {
    "kl": KLConfig,
    "identity": IdentityConfig,
    "vq": VQConfig,
    "ema_vq": EMAVQConfig,
    "fsq": FSQConfig,
    "gumbel": GumbelConfig,
}

AnyBottleneck = Annotated[
    SerializeAsAny[BottleneckConfig], BeforeValidator(Kinds("bottleneck", "bottleneck.kind", "kl", lambda: BOTTLENECKS))
]
"""a section `bottleneck`: the settings of one kind"""
BottleneckLoss = Annotated[
    SerializeAsAny[LossConfig],
    BeforeValidator(
        Kinds("loss", "bottleneck.kind", "kl", lambda: {kind: entry.loss for kind, entry in BOTTLENECKS.items()})
    ),
]
"""a section `loss` behind it: with the weights of that kind's terms"""
