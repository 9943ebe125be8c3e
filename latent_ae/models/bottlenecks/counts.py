"""How evenly a codebook is used: pure functions of how often each code was."""

import math

import torch
from torch import Tensor


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
