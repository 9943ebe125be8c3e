"""The adaptive weight of the adversarial term (Esser et al. 2021, eq. 7)."""

import torch
from torch import Tensor, nn

# A power of two, so that it changes no float32 or bfloat16 gradient. In fp16 the gradient of a mean over 200,000
# pixel values would fall below the smallest number.
_SCALE = 1024.0


def last_layer_gradients(reconstruction: Tensor, adversarial: Tensor, weight: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Gradients of both sides of the loss in the weight of the decoder's last layer, each of its shape in float64.

    Args:
        reconstruction: scalar; what the autoencoder minimises on the reconstruction: the reconstruction term plus the
            weighted perceptual one.
        adversarial: scalar; the generator's loss, unweighted.
        weight: of the decoder's last layer.

    Both scalars being means over a micro-batch, the mean of these gradients over micro-batches and processes is the
    gradient over the global batch, which `AdaptiveWeight.after_update` wants. The graph is kept for the backward, and
    no `.grad` is touched (nor any hook of DDP).
    """
    (of_reconstruction,) = torch.autograd.grad(_SCALE * reconstruction, weight, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(_SCALE * adversarial, weight, retain_graph=True)
    return of_reconstruction.double() / _SCALE, of_adversarial.double() / _SCALE


class AdaptiveWeight(nn.Module):
    """The factor that makes both sides pull equally hard at the decoder's last layer, one update late.

        value = min(||grad_L reconstruction|| / (||grad_L adversarial|| + delta), maximum)

    Others take the ratio of the micro-batch at hand. A ratio of norms is no mean over images: it would depend on how
    the global batch is split over processes and micro-batches. Here the gradients are averaged over the global batch
    first, which is whole only after its last micro-batch, and the value serves the next update: N processes train what
    one does, and a checkpoint holds one number.

    `value` is 0 until the first measurement. It is measured from one update before the generator first uses it
    (`due_at`); where that is the first update of a run, the generator begins with the second.

    Args:
        maximum: bound of the value. 1e4 is the original code's, for a reconstruction term that is a mean over pixel
            values, as ours. Latent-diffusion has the same bound on a sum over C*H*W values: there it binds C*H*W times
            earlier (at 0.05 here for 3x256x256).
        delta: keeps the quotient finite; 1e-4 in the code of taming-transformers and latent-diffusion (1e-6 in the
            paper).
    """

    def __init__(self, *, maximum: float = 1e4, delta: float = 1e-4) -> None:
        super().__init__()
        if min(maximum, delta) <= 0.0:
            raise ValueError(f"maximum and delta of the adaptive weight must be positive, got {maximum} and {delta}")
        self.maximum = maximum
        self.delta = delta
        self.value: Tensor
        self.register_buffer("value", torch.zeros(()))

    @torch.no_grad()
    def after_update(self, of_reconstruction: Tensor, of_adversarial: Tensor) -> None:
        """Take the value for the next update from both sides' last-layer gradients, means over the global batch.

        Where one of them is not finite (half precision overflowed) the value stays as it was.
        """
        ratio = of_reconstruction.norm() / (of_adversarial.norm() + self.delta)
        measured = torch.isfinite(of_reconstruction).all() & torch.isfinite(of_adversarial).all()
        self.value.copy_(torch.where(measured, ratio.clamp(max=self.maximum), self.value))
