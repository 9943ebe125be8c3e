"""What all quantising bottlenecks are: a search in the stock model's codebook, and an account of its use."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from latent_ae.config import ModelConfig
from latent_ae.config.section import Count
from latent_ae.models.bottlenecks.codebook import code_counts, codebook_usage, move_average, nearest_codes, perplexity
from latent_ae.models.bottlenecks.protocol import Bottleneck, BottleneckConfig
from latent_ae.models.parts import CODEBOOK

USAGE_DECAY = 0.99
"""of the moving average of each code's uses per update"""


class Quantizer(Bottleneck):
    """Base of the bottlenecks whose latents are codes.

    Args:
        codebook: the stock model's `quantize.embedding` [K, c]. It stays a part of the stock model alone, which
            optimises, averages and saves it.
        dead_below: a code with fewer uses per update than this, on a moving average, counts as dead. New codes start
            with twice as many, so an unused one has ln 2 / (1 - USAGE_DECAY) = 69 updates to find its place.
    """

    usage: Tensor
    """[K] moving average of the uses per update"""

    def __init__(self, codebook: nn.Embedding, *, dead_below: float = 1.0 - USAGE_DECAY) -> None:
        super().__init__()
        # A tuple hides the module from this one's parameters and state.
        self._codebook = (codebook,)
        self.dead_below = dead_below
        self.register_buffer("usage", codebook.weight.new_full((codebook.num_embeddings,), 2.0 * dead_below))

    @property
    def codebook(self) -> nn.Embedding:
        """The stock model's codebook."""
        return self._codebook[0]

    def nearest(self, z: Tensor) -> Tensor:
        """Vectors [B, n, c] => indices [B, n] that the stock model finds."""
        return nearest_codes(z, self.codebook.weight)

    def counts(self, codes: Tensor) -> Tensor:
        """Uses of each code [K], float64."""
        return code_counts(codes, self.codebook.num_embeddings)

    def dead(self) -> Tensor:
        """Which codes are dead, bool [K]."""
        return self.usage < self.dead_below

    @torch.no_grad()
    def after_update(
        self,
        sums: dict[str, Tensor],
        candidates: Tensor | None,  # noqa: ARG002
        *,
        seed: int,  # noqa: ARG002
    ) -> dict[str, float]:
        """Move the account of use.

        Returns codebook_usage (share of the codes used in this global batch), perplexity (2 to the entropy of their
        use in it) and dead_codes (their number, on the moving average).
        """
        counts = sums["counts"]
        move_average(self.usage, counts, USAGE_DECAY)
        return {
            "codebook_usage": codebook_usage(counts),
            "perplexity": perplexity(counts),
            "dead_codes": float(self.dead().sum()),
        }


def squared_error(z: Tensor, e: Tensor) -> Tensor:
    """Mean of (z - e)^2 over the values of each image: [B, n, c] twice => [B]."""
    return (z - e).square().mean(dim=(1, 2))


def stock_codebook(autoencoder: nn.Module) -> nn.Embedding:
    """The codebook of a stock VQModel."""
    codebook = autoencoder.get_submodule(f"{CODEBOOK}.embedding")
    assert isinstance(codebook, nn.Embedding)
    return codebook


class QuantizerConfig(BottleneckConfig):
    """What the kinds whose latents are codes have in common."""

    stock_class = "VQModel"
    title = "A vector-quantised autoencoder (`diffusers.VQModel`)"
    latents_are = "codes"
    measured_on = "the codes' vectors"


class CodebookConfig(QuantizerConfig):
    """With a codebook that is learned."""

    codebook_size: Annotated[int, Field(ge=2)] | None = None
    """number of codes K"""
    code_channels: Count | None = None
    """channels of a code; the preset's latent_channels unless given"""

    free_codes = True

    def stock_arguments(self, latent_channels: int) -> dict[str, object]:  # noqa: ARG002 - diffusers' own default
        """The size of the codebook."""
        return {"num_vq_embeddings": self.codebook_size, "vq_embed_dim": self.code_channels}

    def check_model(self, model: ModelConfig) -> None:
        """A fresh model needs the number of codes, another one has it."""
        super().check_model(model)
        if model.init_from is None and self.codebook_size is None:
            raise ValueError(f"bottleneck.kind {self.kind} needs bottleneck.codebook_size, the number of codes")
        if model.init_from is not None and (self.codebook_size or self.code_channels):
            raise ValueError(
                "model.init_from brings its own codebook, so bottleneck.codebook_size and bottleneck.code_channels "
                "would have no effect: leave them out"
            )
