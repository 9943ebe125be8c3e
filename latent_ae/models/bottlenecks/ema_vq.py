"""Vector quantisation with a codebook of moving averages."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latent_ae.config import LossConfig
from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.bottlenecks.codebook import move_average
from latent_ae.models.bottlenecks.vq import CommitmentConfig, NearestCodeConfig, VQBottleneck
from latent_ae.models.parts import ENCODER_NETWORK


class EMAVQBottleneck(VQBottleneck):
    """`VQBottleneck` whose codes are moving averages of the vectors they stand for; no gradient trains them.

    With n_k vectors of the global batch nearest to code k, and s_k their sum (van den Oord et al. 2017, appendix A.1):

        N_k <- decay * N_k + (1 - decay) * n_k        m_k <- decay * m_k + (1 - decay) * s_k        e_k = m_k / N_k

    where N_k is smoothed as if each code had been seen epsilon times more (Laplace; as in the authors' code),
    (N_k + epsilon) / (N + K * epsilon) * N with N = sum_k N_k. A code that no vector came to keeps its place: without
    smoothing it would, as m_k and N_k fall alike, and with it it would sink to the origin.

    With `l2_normalized`, vectors are normalised before they are summed, and codes projected onto the sphere.

    Args:
        codebook, options: those of VQBottleneck.
        decay: of N and m.
        epsilon: of the smoothing, in samples.
    """

    trains: ClassVar[dict[str, frozenset[str]]] = dict.fromkeys(("commitment", "entropy"), frozenset(ENCODER_NETWORK))
    by_gradient: ClassVar[bool] = False
    cluster_sizes: Tensor
    """N, [K]"""
    cluster_sums: Tensor
    """m, [K, c]"""

    def __init__(
        self,
        codebook: nn.Embedding,
        *,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        **options: Any,
    ) -> None:
        codebook.requires_grad_(False)
        super().__init__(codebook, **options)
        self.decay = decay
        self.epsilon = epsilon
        # As if each code had been seen once, where it is.
        self.register_buffer("cluster_sizes", torch.ones_like(self.usage))
        self.register_buffer("cluster_sums", codebook.weight.detach().clone())

    def move_codes(self, sums: dict[str, Tensor]) -> None:
        """Move the averages, and with them the codes that vectors came to."""
        move_average(self.cluster_sizes, sums["counts"], self.decay)
        move_average(self.cluster_sums, sums["vectors"], self.decay)
        sizes = self.cluster_sizes.double()
        smoothed = (sizes + self.epsilon) / (sizes.sum() + len(sizes) * self.epsilon) * sizes.sum()
        means = (self.cluster_sums.double() / smoothed[:, None]).float()
        codes = self.codebook.weight
        codes.copy_(torch.where(sums["counts"][:, None] > 0, means, codes))

    def reset_averages(self, codes: Tensor, vectors: Tensor, sizes: Tensor) -> None:
        """Make the averages of codes [n] say that they are at vectors [n, c], of `sizes` [n] samples each."""
        sizes = sizes.to(self.cluster_sizes)
        self.cluster_sizes[codes] = sizes
        self.cluster_sums[codes] = vectors.to(self.cluster_sums) * sizes[:, None]


class EMAVQConfig(NearestCodeConfig):
    """ema_vq: a codebook of moving averages."""

    kind: Literal["ema_vq"] = "ema_vq"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """decay of the codes' moving averages"""

    loss = CommitmentConfig

    def build(self, autoencoder: Autoencoder, loss: LossConfig) -> EMAVQBottleneck:
        """On the autoencoder's codebook."""
        return EMAVQBottleneck(autoencoder.quantize.embedding, **self.options(loss))
