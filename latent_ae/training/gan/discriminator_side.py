"""The discriminator's side of a run: its module, optimizer, gradient scaler, schedule and weights in one place."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latent_ae.models.discriminator import PatchDiscriminator
from latent_ae.training.gan.losses import AdversarialLoss, Discrimination, Due, due_at, generator_loss

NOTHING_DUE = Due(discriminator=False, generator=False, measure_adaptive_weight=False)
LAST_LAYER = "last_layer"
"""the group of an update's sums with the gradients there"""
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


class Adversary:
    """What a generator's step asks of the discriminator, and what the discriminator's own step needs.

    Args:
        network: the discriminator.
        module: it behind its loss terms, as built.
        optimizer: over its parameters.
        loss: the game, of which `module` has the discriminator's half.
        last_layer: weight of the decoder's last layer, at which both sides' gradients are compared.
        weights: of the terms "discriminator", "lecam" and "r1".
        weight: of the adversarial term, times the adaptive weight if there is one.
        adaptive: whether there is one.
        start_step: first update in which the autoencoder sees the discriminator.
        warmup_steps: updates before it in which the discriminator trains alone.
    """

    def __init__(
        self,
        network: PatchDiscriminator,
        module: Discrimination,
        optimizer: torch.optim.Optimizer,
        loss: AdversarialLoss,
        last_layer: nn.Parameter,
        *,
        weights: dict[str, float],
        weight: float,
        adaptive: bool,
        start_step: int,
        warmup_steps: int,
    ) -> None:
        self.network = network
        self.module = module
        self.optimizer = optimizer
        self.weights = weights
        self.adaptive = AdaptiveWeight() if adaptive else None
        self.due: Callable[[int], Due] = partial(
            due_at, start_step=start_step, warmup_steps=warmup_steps, adaptive=adaptive
        )
        self.prepared: nn.Module = module
        """the module as it is called: wrapped for distributed training, once `prepare` was called"""
        self.scaler = torch.amp.GradScaler(enabled=False)
        """the discriminator's own: the loss scale of one side says nothing about the other"""
        self._loss = loss
        self._last_layer = last_layer
        self._weight = weight
        self._autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    def prepare(self, accelerator: Accelerator) -> None:
        """Move to the device and wrap for distributed training and mixed precision."""
        self.module.to(accelerator.device).train()
        if self.adaptive is not None:
            self.adaptive.to(accelerator.device)
        self.prepared = accelerator.prepare_model(self.module)
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=accelerator.mixed_precision == "fp16")
        self._autocast = accelerator.autocast

    def generator_term(self, reconstruction: Tensor) -> Tensor:
        """Reconstruction [B,C,H,W] => the generator's loss, unweighted; a gradient reaches the reconstruction alone."""
        with self._autocast():
            return generator_loss(self.network, reconstruction, self._loss).mean()

    def generator_weight(self) -> float:
        """The weight of the adversarial term in this update."""
        return self._weight if self.adaptive is None else self._weight * float(self.adaptive.value)

    def last_layer_gradients(self, reconstruction_side: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Gradients of both sides of a micro-batch's loss at the decoder's last layer, for `after_generator_update`."""
        one, other = last_layer_gradients(reconstruction_side, adversarial, self._last_layer)
        return {"reconstruction": one, "adversarial": other}

    def after_generator_update(self, means: dict[str, Tensor]) -> None:
        """Take the next update's adaptive weight from the global means, in them those of `last_layer_gradients` under
        `LAST_LAYER`, if taken.
        """
        if self.adaptive is not None and f"{LAST_LAYER}.reconstruction" in means:
            sides = (means[f"{LAST_LAYER}.{side}"] for side in ("reconstruction", "adversarial"))
            self.adaptive.after_update(*(gradient.to(self.adaptive.value.device) for gradient in sides))

    def weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        """What the discriminator minimises: every term times its weight."""
        return torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()

    def synchronised(self, accelerator: Accelerator, *, last: bool) -> AbstractContextManager[object]:
        """Where a micro-batch's gradients are only added up, until the `last` one sends the sum to all processes."""
        return nullcontext() if last else accelerator.no_sync(self.prepared)

    def after_update(self, stats: dict[str, float]) -> None:
        """Move LeCAM's averages by the global means of an update of the discriminator."""
        if self.module.lecam is not None:
            self.module.lecam.after_update(stats["logits_real"], stats["logits_fake"])

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of this side by name: what a checkpoint holds besides the optimizer."""
        own = {f"discriminator.{name}": tensor for name, tensor in self.module.state_dict(keep_vars=True).items()}
        if self.adaptive is not None:
            own["adaptive_weight.value"] = self.adaptive.value
        return own
