"""Vector quantisation with a codebook that is trained by gradient."""

from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from latent_ae.config import ConfigError, LossConfig
from latent_ae.config.section import NotNegative, Positive
from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.bottlenecks.codebook import (
    code_logits,
    code_sums,
    grid_of,
    move_average,
    on_sphere,
    positions_from,
    rotated,
    straight_through,
    vectors_of,
)
from latent_ae.models.bottlenecks.kmeans import kmeans
from latent_ae.models.bottlenecks.protocol import BottleneckOutput
from latent_ae.models.bottlenecks.quantizer import USAGE_DECAY, CodebookConfig, Quantizer, squared_error, stock_codebook
from latent_ae.models.parts import CODEBOOK, ENCODER_NETWORK, ENCODER_SIDE
from latent_ae.randomness import numpy_generator

_CANDIDATES = 8
"""vectors of each image that are offered to dead codes"""
_MARGINAL_DECAY = 0.9
_MARGINAL_FLOOR = 1e-8
"""keeps the pull towards codes that nothing is near finite"""


class VQBottleneck(Quantizer):
    """Replaces each position's vector by its nearest code (van den Oord et al. 2017, "Neural Discrete Representation
    Learning", eq. 1 to 3).

        h [B,c,h,w] --> z --> k = argmin_k ||z - e_k|| --> latents: e_k, with z's gradient
                        |     |
                        +-----+--> codebook = ||sg[z] - e_k||^2, commitment = ||z - sg[e_k]||^2

    Both terms are means over the image's latent values, and unweighted: the paper's beta is the weight of commitment.

    **Entropy** is E[H(p(k|z))] - H(E[p(k|z)]) with p = softmax(-||z - e||^2 / temperature), as in MaskGIT's tokenizer
    (Chang et al. 2022) and lookup-free quantisation (Yu et al. 2023): low where each vector is sure of its code and
    all codes are used. The second part is the entropy of the whole batch's mean, which is no mean over images and
    would depend on how a batch is split. So it is replaced by its tangent at a running marginal m,
    H(q) ~ H(m) - sum_k (log m_k + 1) (q_k - m_k) = -sum_k q_k log m_k, which makes the term one of each image alone:
    E_z[sum_k p_k (log m_k - log p_k)] = -E_z[KL(p || m)], in nats per position. Where m is the batch's marginal,
    value and gradient are those of the original. It takes B * h * w * K floats of memory, several times over.

    Args:
        codebook: the stock model's codebook [K, c].
        l2_normalized: codes on the unit sphere, and z projected onto it for the losses and the latents (Yu et al.
            2022, ViT-VQGAN). The search is the stock model's, on z as it is: to unit codes, nearest in distance is
            nearest in direction.
        rotation_trick: gradients reach the encoder turned as z is turned onto its code, not unchanged.
        entropy: whether there is an entropy term, of `entropy_temperature`.
        kmeans_start: whether `start_from` places the codes.
        revive_below: a code with fewer uses per update than this, on a moving average, is moved to where a vector of
            the batch is; 0 leaves dead codes alone.
    """

    trains: ClassVar[dict[str, frozenset[str]]] = {
        "codebook": frozenset({CODEBOOK}),
        "commitment": frozenset(ENCODER_NETWORK),
        "entropy": frozenset(ENCODER_SIDE),
    }
    by_gradient: ClassVar[bool] = True
    """whether a gradient trains the codes, and not their vectors' averages"""
    marginal: Tensor
    """[K] moving average of the mean of p(k|z), where there is an entropy term"""

    def __init__(
        self,
        codebook: nn.Embedding,
        *,
        l2_normalized: bool = False,
        rotation_trick: bool = False,
        entropy: bool = False,
        entropy_temperature: float = 0.01,
        kmeans_start: bool = False,
        revive_below: float = 0.0,
    ) -> None:
        super().__init__(codebook, dead_below=revive_below or 1.0 - USAGE_DECAY)
        self.l2_normalized = l2_normalized
        self.rotation_trick = rotation_trick
        self.entropy = entropy
        self.entropy_temperature = entropy_temperature
        self.kmeans_start = kmeans_start
        self.revives = revive_below > 0
        if entropy:
            self.register_buffer("marginal", torch.full_like(self.usage, 1.0 / len(self.usage)))
        if l2_normalized:
            _onto_sphere(codebook)

    def noise_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, ...]:  # noqa: ARG002
        """One number a candidate, for its position, where dead codes are revived."""
        return (_CANDIDATES,) if self.revives else (0,)

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:
        """Vectors h [B,c,h,w] and noise [B,8] (or [B,0]) => latents and terms."""
        with torch.autocast(h.device.type, enabled=False):
            encoded = vectors_of(h)
            codes = self.nearest(encoded)
            e = self.codebook(codes)
            z = F.normalize(encoded, dim=-1) if self.l2_normalized else encoded
            losses = {"commitment": squared_error(z, e.detach())}
            sums = {"counts": self.counts(codes)}
            if self.by_gradient:
                losses["codebook"] = squared_error(z.detach(), e)
            else:
                sums["vectors"] = code_sums(codes, z, len(self.usage))
            if self.entropy:
                losses["entropy"], sums["assignments"] = self._entropy(z)
            return BottleneckOutput(
                latents=grid_of(self._latents(encoded, z, e), h),
                codes=codes.view(len(h), *h.shape[-2:]),
                losses=losses,
                stats={},
                sums=sums,
                candidates=self._candidates(z, noise) if self.revives and self.training else None,
            )

    def wants_candidates(self) -> bool:
        """Whether some code is to be revived."""
        return self.revives and bool(self.dead().any())

    @torch.no_grad()
    def start_from(self, vectors: Tensor, *, seed: int) -> None:
        """Place the codes at the k-means of vectors [N, c]. Raises ModelError where these are fewer than the codes."""
        if self.kmeans_start:
            everywhere = torch.arange(self.codebook.num_embeddings, device=vectors.device)
            centres, sizes = kmeans(vectors, len(everywhere), spherical=self.l2_normalized, seed=seed)
            self._place(everywhere, centres, sizes)

    @torch.no_grad()
    def after_update(self, sums: dict[str, Tensor], candidates: Tensor | None, *, seed: int) -> dict[str, float]:
        """Put the codes back onto the sphere, move the running marginal and the account of use, revive dead codes."""
        log = super().after_update(sums, candidates, seed=seed)
        self.moved = None
        self.move_codes(sums)
        if self.l2_normalized:
            _onto_sphere(self.codebook)
        if self.entropy:
            move_average(self.marginal, sums["assignments"] / sums["assignments"].sum(), _MARGINAL_DECAY)
        if self.revives and candidates is not None:
            self._revive(candidates, seed)
        return log

    def move_codes(self, sums: dict[str, Tensor]) -> None:
        """What an update does to the codes where no gradient trains them."""

    def reset_averages(self, codes: Tensor, vectors: Tensor, sizes: Tensor) -> None:
        """Forget where codes [n] were: they are at vectors [n, c] now, which stand for `sizes` [n] samples each."""

    def fold(self, autoencoder: nn.Module) -> None:
        """Put the (averaged) codes back onto the sphere."""
        if self.l2_normalized:
            _onto_sphere(stock_codebook(autoencoder))

    def _latents(self, encoded: Tensor, z: Tensor, e: Tensor) -> Tensor:
        if not self.training:
            return straight_through(encoded, e)
        return rotated(z, e) if self.rotation_trick else straight_through(z, e)

    def _entropy(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The term [B] of vectors [B, n, c], and the sum of p(k|z) over them, float64 [K]."""
        log_p = F.log_softmax(code_logits(z, self.codebook.weight) / self.entropy_temperature, dim=-1)
        p = log_p.exp()
        term = (p * (self.marginal.clamp(min=_MARGINAL_FLOOR).log() - log_p)).sum(dim=-1).mean(dim=-1)
        return term, p.detach().sum(dim=(0, 1), dtype=torch.float64)

    def _candidates(self, z: Tensor, noise: Tensor) -> Tensor:
        positions = positions_from(noise, z.shape[1])
        return z.detach().gather(1, positions[..., None].expand(-1, -1, z.shape[2]))

    def _revive(self, candidates: Tensor, seed: int) -> None:
        dead = self.dead().nonzero().flatten()
        generator = numpy_generator(seed, "revival")
        chosen = torch.from_numpy(generator.permutation(len(candidates))[: len(dead)]).to(dead)
        revived = dead[torch.from_numpy(generator.permutation(len(dead))[: len(chosen)]).to(dead)]
        self._place(revived, candidates[chosen], torch.ones(len(chosen)))
        self.moved = revived

    def _place(self, codes: Tensor, vectors: Tensor, sizes: Tensor) -> None:
        """Put codes [n] at vectors [n, c], as new."""
        self.codebook.weight[codes] = vectors.to(self.codebook.weight)
        self.usage[codes] = 2.0 * self.dead_below
        self.reset_averages(codes, vectors, sizes)
        if self.entropy:
            self.marginal[codes] = 1.0 / len(self.marginal)
            self.marginal /= self.marginal.sum()


@torch.no_grad()
def _onto_sphere(codebook: nn.Embedding) -> None:
    codebook.weight.copy_(on_sphere(codebook.weight))


class CommitmentConfig(LossConfig):
    """With commitment and entropy, as means over latent values or codes, as published ones are."""

    commitment_weight: NotNegative | None = None
    """weight of the squared distance that draws the encoder to its codes; null is 0.25"""
    entropy_weight: NotNegative = 0.0
    """weight of E[H(p)] - H(E[p]), which asks for certain codes and an evenly used codebook"""
    entropy_temperature: Positive = 0.01
    """temperature of the softmax over distances in the entropy term"""

    @model_validator(mode="after")
    def _temperature_has_effect(self) -> Self:
        default = type(self).model_fields["entropy_temperature"].default
        if self.entropy_temperature != default and not self.entropy_weight:
            raise ValueError("loss.entropy_temperature has an effect only with loss.entropy_weight")
        return self

    def weights_at(self, step: int | None) -> dict[str, float]:  # noqa: ARG002 - they stay the same
        """Those of commitment and entropy."""
        return {"commitment": self.commitment_weight or 0.0, "entropy": self.entropy_weight}

    def with_defaults(self, *, encoder: bool, codebook: bool) -> Self:  # noqa: ARG002
        """commitment_weight is 0.25, or 0 with a frozen encoder."""
        return self._filled_in(commitment_weight=0.25 * encoder)

    def _filled_in(self, **defaults: float) -> Self:
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})


class VQLossConfig(CommitmentConfig):
    """With commitment, codebook and entropy."""

    codebook_weight: NotNegative | None = None
    """weight of the squared distance that draws the codes to the encoder; null is 1"""

    def weights_at(self, step: int | None) -> dict[str, float]:
        """Those of commitment, entropy and codebook."""
        return {**super().weights_at(step), "codebook": self.codebook_weight or 0.0}

    def with_defaults(self, *, encoder: bool, codebook: bool) -> Self:
        """codebook_weight is 1, or 0 with a frozen codebook."""
        return self._filled_in(commitment_weight=0.25 * encoder, codebook_weight=1.0 * codebook)


class NearestCodeConfig(CodebookConfig):
    """What vq and ema_vq have in common."""

    l2_normalized: bool = False
    """codes and vectors on the unit sphere"""
    kmeans_start: bool = False
    """start the codes at the k-means of what the fresh encoder gives"""
    revive_below: NotNegative = 0.0
    """a code with fewer uses per update than this, on a moving average, is moved to where vectors are; 0 leaves unused
    codes alone"""
    rotation_trick: bool = False
    """gradients reach the encoder rotated (Fifty et al. 2024) instead of straight through"""

    def options(self, loss: LossConfig) -> dict[str, Any]:
        """Arguments of the module beside the codebook."""
        assert isinstance(loss, CommitmentConfig)
        return {
            **self.model_dump(exclude={"kind", "codebook_size", "code_channels"}),
            "entropy": loss.entropy_weight > 0,
            "entropy_temperature": loss.entropy_temperature,
        }

    def check_frozen_codebook(self) -> None:
        """Neither k-means nor revival."""
        for name in ("kmeans_start", "revive_below"):
            if getattr(self, name):
                raise ConfigError(
                    f"bottleneck.{name} would move a codebook that model.trained leaves frozen: leave it out"
                )

    def starts_codebook(self, *, fresh: bool) -> bool:  # noqa: ARG002
        """By k-means."""
        return self.kmeans_start


class VQConfig(NearestCodeConfig):
    """vq: a codebook trained by gradient."""

    kind: Literal["vq"] = "vq"

    loss = VQLossConfig

    def build(self, autoencoder: Autoencoder, loss: LossConfig) -> VQBottleneck:
        """On the autoencoder's codebook."""
        return VQBottleneck(autoencoder.quantize.embedding, **self.options(loss))
