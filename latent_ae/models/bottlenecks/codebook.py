"""What quantising bottlenecks compute with a codebook. Everywhere: z vectors, e codes, K codes of c channels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_UNIT_TOLERANCE = 1e-6


def vectors_of(h: Tensor) -> Tensor:
    """[B, c, h, w] => float32 [B, h*w, c], row by row."""
    return h.float().flatten(2).transpose(1, 2).contiguous()


def grid_of(vectors: Tensor, h: Tensor) -> Tensor:
    """[B, h*w, c] => [B, c, h, w], with the height and width of `h`."""
    return vectors.transpose(1, 2).reshape(len(h), -1, *h.shape[-2:])


@torch.no_grad()
def nearest_codes(z: Tensor, codebook: Tensor, *, max_distances: int = 2**26) -> Tensor:
    """Index of the code nearest to each vector: float32 z [..., c] and codebook [K, c] => int64 [...].

    The expression is that of diffusers' VectorQuantizer, so that an exported model finds the same code even where
    rounding decides. In pieces of rows, so that no more than `max_distances` of 4 bytes are held at once.
    """
    rows = max(1, max_distances // len(codebook))
    pieces = z.reshape(-1, z.shape[-1]).split(rows)
    return torch.cat([torch.argmin(torch.cdist(piece, codebook), dim=1) for piece in pieces]).view(z.shape[:-1])


def code_logits(z: Tensor, codebook: Tensor) -> Tensor:
    """2 z.e - ||e||^2 = ||z||^2 - ||z - e||^2 for z [B, n, c] and codebook [K, c] => [B, n, K].

    Up to ||z||^2, which no softmax over codes sees, the negative squared distance.
    """
    return 2.0 * z @ codebook.T - codebook.square().sum(dim=-1)


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """The codes' values with z's gradient (van den Oord et al. 2017), in the expression of diffusers."""
    return z + (e - z).detach()


def rotated(z: Tensor, e: Tensor) -> Tensor:
    """The codes' values with a gradient that is turned as z is turned onto e: [..., c] twice => [..., c].

    The rotation trick (Fifty et al. 2024, "Restructuring Vector Quantization with the Rotation Trick", eq. 4.2):
    with the unit vectors u of z and q of e, and w that of u + q,
    result = ||e|| / ||z|| * (z - 2 (z.w) w + 2 (z.u) q), where all but z is held constant.
    """
    with torch.no_grad():
        u, q = F.normalize(z, dim=-1), F.normalize(e, dim=-1)
        w = F.normalize(u + q, dim=-1)
        scale = e.norm(dim=-1, keepdim=True) / z.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    along_w = (z * w).sum(dim=-1, keepdim=True)
    along_u = (z * u).sum(dim=-1, keepdim=True)
    result: Tensor = scale * (z - 2.0 * along_w * w + 2.0 * along_u * q)
    return result


def on_sphere(vectors: Tensor) -> Tensor:
    """[..., c] => scaled to norm 1. Vectors that have it already are left as they are, to the last bit."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return torch.where((norms - 1.0).abs() > _UNIT_TOLERANCE, vectors / norms.clamp(min=1e-12), vectors)


def code_counts(codes: Tensor, size: int) -> Tensor:
    """How often each of `size` codes is in int64 `codes` of any shape => float64 [K]."""
    ones = torch.ones(codes.numel(), 1, dtype=torch.float64, device=codes.device)
    return code_sums(codes, ones, size).squeeze(1)


def code_sums(codes: Tensor, vectors: Tensor, size: int) -> Tensor:
    """Sum of the vectors [..., c] of each of `size` codes [...] => float64 [K, c]."""
    flat = vectors.detach().reshape(-1, vectors.shape[-1]).double()
    sums = torch.zeros(size, flat.shape[1], dtype=torch.float64, device=flat.device)
    # Of the ways to scatter, the one that adds in a fixed order on a GPU as well: it sorts instead of racing.
    return sums.index_put_((codes.reshape(-1),), flat, accumulate=True)


def move_average(average: Tensor, value: Tensor, decay: float) -> None:
    """In place: average <- decay * average + (1 - decay) * value, computed in float64."""
    average.copy_(decay * average.double() + (1.0 - decay) * value.double())


def positions_from(noise: Tensor, count: int) -> Tensor:
    """Noise from N(0, 1) => int64 positions 0 .. count - 1, all equally likely, by the normal distribution function."""
    positions: Tensor = (torch.special.ndtr(noise) * count).long()
    return positions.clamp(max=count - 1)


def entropy_bits(counts: Tensor) -> float:
    """Entropy of the codes in bits, -sum_k p_k log2 p_k with p = counts / sum, from counts [K] that are not all 0."""
    share = counts.double() / counts.double().sum()
    return float(torch.special.entr(share).sum()) / math.log(2.0)


def perplexity(counts: Tensor) -> float:
    """2 to the entropy: the number of codes that, evenly used, would carry as much; 1 to K."""
    return float(2.0 ** entropy_bits(counts))


def codebook_usage(counts: Tensor) -> float:
    """Share of the codes that were used at all; 1/K to 1."""
    return float((counts > 0).double().mean())
