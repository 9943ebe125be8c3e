"""Whether a reconstruction keeps its image's mean colour."""

from torch import Tensor

from latent_ae.evaluation.metrics.quality import comparable


def color_bias(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels of reconstruction - target, [B, C] by image and channel, on [-1, 1].

    Above 0 the reconstruction is too bright in that channel; 2 is white for black. Both are [B, C, H, W], the
    reconstruction clamped to [-1, 1]. Means over images keep the sign: what is left there is a tint of the model,
    where the images' own errors cancel.
    """
    reconstruction, target = comparable(reconstruction, target)
    return (reconstruction - target).mean((2, 3))
