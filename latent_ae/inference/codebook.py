"""Vectors to codes and back: the quantisation of a VQModel, always in float32 and over the whole image."""

import torch
from torch import Tensor, nn

from latent_ae.errors import UserError
from latent_ae.models.bottlenecks.codebook import nearest_codes

_DISTANCES = 1 << 24
"""from vectors to codes that are held at once: 64 MiB"""


class Codebook:
    """The codes of a model and their vectors."""

    def __init__(self, embedding: nn.Embedding) -> None:
        self._vectors = embedding.weight
        self.size = embedding.num_embeddings

    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors [B,c,h,w] => the codes [B,h,w] int64 nearest to them, as stock VQModel finds them, on the CPU."""
        points = vectors.to(self._vectors.device, torch.float32).movedim(1, -1)
        return nearest_codes(points, self._vectors, max_distances=_DISTANCES).cpu()

    @torch.no_grad()
    def vectors(self, codes: Tensor) -> Tensor:
        """Codes [B,h,w] => their vectors [B,c,h,w] float32, on the model's device. Raises UserError for others."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.size:
            raise UserError(
                f"the codes go from {int(codes.min())} to {int(codes.max())}, the model's codebook from 0 to "
                f"{self.size - 1}: take those that this model made"
            )
        return self._vectors[codes.to(self._vectors.device, torch.int64)].movedim(-1, 1)
