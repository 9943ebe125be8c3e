"""One small bottleneck of every kind, and the stock models beside them."""

from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace

import torch
from diffusers import VQModel
from torch import Tensor, nn

from latent_ae.models.bottlenecks import BOTTLENECKS, Bottleneck
from latent_ae.models.bottlenecks.ema_vq import EMAVQBottleneck
from latent_ae.models.bottlenecks.fsq import FSQBottleneck
from latent_ae.models.bottlenecks.gumbel import GumbelBottleneck
from latent_ae.models.bottlenecks.vq import VQBottleneck

CODES, CHANNELS = 12, 2
QUANTIZING = {"vq": VQBottleneck, "ema_vq": EMAVQBottleneck, "fsq": FSQBottleneck, "gumbel": GumbelBottleneck}
"""modules by kind, to be made with their own arguments"""

VARIANTS: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "kl": ("kl", {}, {"free_bits": 0.1}),
    "identity": ("identity", {}, {}),
    "fsq": ("fsq", {"levels": (4, 3)}, {}),
    "gumbel": ("gumbel", {}, {}),
    "gumbel, hard": ("gumbel", {"straight_through": True, "temperature": (0.5, 0.1), "temperature_steps": 10}, {}),
}
"""by name: kind, its settings, and those of the loss"""
for _kind, _normalized, _full in product(("vq", "ema_vq"), (False, True), (False, True)):
    _options = {"rotation_trick": True, "revive_below": 0.5} if _full else {}
    VARIANTS[f"{_kind}{', normalized' * _normalized}{', with all options' * _full}"] = (
        _kind,
        {"l2_normalized": _normalized, **_options},
        {"entropy_weight": 0.1} if _full else {},
    )

QUANTIZERS = [name for name, (kind, *_) in VARIANTS.items() if kind not in ("kl", "identity")]


def codebook(codes: int = CODES, channels: int = CHANNELS, seed: int = 0) -> nn.Embedding:
    """Codes from N(0, 1)."""
    embedding = nn.Embedding(codes, channels)
    with torch.no_grad():
        embedding.weight.copy_(torch.randn(codes, channels, generator=torch.Generator().manual_seed(seed)))
    return embedding


def build(variant: str, embedding: nn.Embedding | None = None) -> Bottleneck:
    """A fresh bottleneck; those that quantise get a codebook."""
    kind, settings, loss = VARIANTS[variant]
    entry = BOTTLENECKS[kind]
    autoencoder = SimpleNamespace(quantize=SimpleNamespace(embedding=embedding or codebook()))
    return entry(**settings).build(autoencoder, entry.loss(**loss))


def inputs(variant: str, bottleneck: Bottleneck, batch: int = 8, side: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """What a bottleneck is called with: h, and noise of the shape it asks for."""
    generator = torch.Generator().manual_seed(seed)
    channels = CHANNELS if variant in QUANTIZERS else 2 * CHANNELS
    h = torch.randn(batch, channels, side, side, generator=generator)
    return h, torch.randn(batch, *bottleneck.noise_shape((CHANNELS, side, side)), generator=generator)


def tensors(output: object) -> Iterator[Tensor]:
    """All tensors of a BottleneckOutput."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict | tuple):
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def vq_model(codes: int = CODES, channels: int = CHANNELS) -> VQModel:
    """A stock model: 1x16x16 images, 8x8 latents."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = VQModel(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=3,
            norm_num_groups=4,
            num_vq_embeddings=codes,
            vq_embed_dim=channels,
            mid_block_add_attention=False,
        )
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(codebook(codes, channels).weight)
    return model
