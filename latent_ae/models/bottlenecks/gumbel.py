"""The Gumbel-softmax bottleneck of DALL-E's discrete VAE."""

import math
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from latent_ae.config import LossConfig
from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.bottlenecks.codebook import code_logits, grid_of, straight_through, vectors_of
from latent_ae.models.bottlenecks.kl import KLTermConfig
from latent_ae.models.bottlenecks.protocol import BottleneckOutput
from latent_ae.models.bottlenecks.quantizer import CodebookConfig, Quantizer, squared_error
from latent_ae.models.parts import DECODER_SIDE, ENCODER_SIDE
from latent_ae.randomness import torch_generator

_NOISE_BOUND = 12.0
"""beyond it (once in 10^33 draws) the double logarithm runs out of float32"""


class GumbelBottleneck(Quantizer):
    """Gives the decoder a random mixture of codes that becomes one code as the temperature falls.

        h [B,c,h,w] --> z --> logits_k = -||z - e_k||^2 --> y = softmax((logits + g) / tau) --> latents = sum_k y_k e_k
                                  |
                                  +--> kl = KL(softmax(logits) || uniform) in nats, summed over the image's positions

    with g from Gumbel(0, 1) (Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax", eq. 1 and 2;
    Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1). DALL-E's encoder gives the logits; here
    they are distances, so that the most probable code is the nearest and the stock model finds it. In eval mode the
    latents are that code. `codes` are always the nearest, without noise.

    Args:
        codebook: the stock model's codebook [K, c]; the reconstruction trains it through y.
        temperature: tau at the first update and after `temperature_steps`, between which it falls along half a cosine,
            as in Ramesh et al. (appendix A.2: 1 to 1/16 over 150,000 updates).
        temperature_steps: 0 keeps the first.
        straight_through: the decoder gets the one code with the largest y, and y's gradient (Jang et al., section 2.2).
    """

    reconstruction_trains: ClassVar[frozenset[str]] = frozenset((*ENCODER_SIDE, *DECODER_SIDE))
    trains: ClassVar[dict[str, frozenset[str]]] = {"kl": frozenset(ENCODER_SIDE)}
    tau: Tensor

    def __init__(
        self,
        codebook: nn.Embedding,
        *,
        temperature: tuple[float, float] = (1.0, 1.0 / 16.0),
        temperature_steps: int = 0,
        straight_through: bool = False,
    ) -> None:
        super().__init__(codebook)
        self.temperature = temperature
        self.temperature_steps = temperature_steps
        self.straight_through = straight_through
        # A tensor, so that a compiled forward need not be compiled anew; not saved, as it follows from the step.
        self.register_buffer("tau", torch.tensor(temperature[0]), persistent=False)

    def noise_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """One number a code and position."""
        return (self.codebook.num_embeddings, *latent_shape[1:])

    @torch.no_grad()
    def start_from(self, vectors: Tensor, *, seed: int) -> None:  # noqa: ARG002
        """Draw the codes from N(0, 1): as far apart as the Gumbel noise is wide, whatever the vectors are.

        The stock start, within 1 / K of the origin, would leave all codes equally probable for long.
        """
        codes = self.codebook.weight
        codes.copy_(torch.randn(codes.shape, generator=torch_generator(seed, "codebook")))

    def at_step(self, step: int) -> None:
        """Take on the temperature of an update."""
        start, end = self.temperature
        done = min(1.0, step / self.temperature_steps) if self.temperature_steps else 0.0
        self.tau.fill_(end + (start - end) * (1.0 + math.cos(math.pi * done)) / 2.0)

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:
        """Vectors h [B,c,h,w] and noise [B,K,h,w] => latents and KL in nats per image."""
        with torch.autocast(h.device.type, enabled=False):
            z = vectors_of(h)
            codes = self.nearest(z)
            e = self.codebook(codes)
            logits = code_logits(z, self.codebook.weight)
            log_q = F.log_softmax(logits, dim=-1)
            kl = (log_q.exp() * (log_q + math.log(log_q.shape[-1]))).sum(dim=(1, 2))
            latents = self._mixture(logits, vectors_of(noise)) if self.training else straight_through(z, e)
            return BottleneckOutput(
                latents=grid_of(latents, h),
                codes=codes.view(len(h), *h.shape[-2:]),
                losses={"kl": kl},
                stats={"kl_nats": kl.detach(), "quantization_error": squared_error(z, e).detach()},
                sums={"counts": self.counts(codes)},
            )

    def _mixture(self, logits: Tensor, noise: Tensor) -> Tensor:
        y = F.softmax((logits + gumbel_from(noise)) / self.tau, dim=-1)
        if self.straight_through:
            chosen = F.one_hot(y.argmax(dim=-1), y.shape[-1])
            y = y + (chosen - y).detach()
        return y @ self.codebook.weight


def gumbel_from(noise: Tensor) -> Tensor:
    """Numbers from N(0, 1) => numbers from Gumbel(0, 1) of the same rank: -log(-log Phi(n)), finite for every n."""
    return -torch.log(-torch.special.log_ndtr(noise.clamp(-_NOISE_BOUND, _NOISE_BOUND)))


class GumbelConfig(CodebookConfig):
    """gumbel: the Gumbel-softmax of DALL-E's dVAE."""

    kind: Literal["gumbel"] = "gumbel"
    temperature: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 0.0625)
    """temperature of the softmax at the first update and after temperature_steps"""
    temperature_steps: Annotated[int, Field(ge=0)] = 0
    """updates over which the temperature falls; 0 keeps the first"""
    straight_through: bool = False
    """give the decoder one code (with the soft gradient) instead of a mixture"""

    loss = KLTermConfig
    title = "A vector-quantised autoencoder (`diffusers.VQModel`, trained with the Gumbel-softmax)"

    @model_validator(mode="after")
    def _second_temperature_comes(self) -> Self:
        first, second = self.temperature
        if not self.temperature_steps and second not in (first, type(self).model_fields["temperature"].default[1]):
            raise ValueError(
                f"bottleneck.temperature {first:g} {second:g} never comes to {second:g} with "
                "bottleneck.temperature_steps 0: give the updates over which it falls"
            )
        return self

    def build(self, autoencoder: Autoencoder, loss: LossConfig) -> GumbelBottleneck:  # noqa: ARG002
        """On the autoencoder's codebook."""
        return GumbelBottleneck(
            autoencoder.quantize.embedding,
            temperature=self.temperature,
            temperature_steps=self.temperature_steps,
            straight_through=self.straight_through,
        )

    def starts_codebook(self, *, fresh: bool) -> bool:
        """A fresh one."""
        return fresh
