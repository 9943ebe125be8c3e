"""What every bottleneck returns."""

from typing import NamedTuple

from torch import Tensor


class BottleneckOutput(NamedTuple):
    """The latents and what they cost. A NamedTuple, so that accelerate and DDP see the tensors in it."""

    latents: Tensor
    """[B, c, h, w] raw latents that the decoder gets"""
    codes: Tensor | None
    """[B, h, w] codebook indices; None where there is no codebook"""
    losses: dict[str, Tensor]
    """unweighted terms by name, [B] each, in the unit of the term (KL: nats per image)"""
    stats: dict[str, Tensor]
    """what to log beside the losses, [B] each, without gradient"""
