"""Adversarial training: the losses of both sides, the discriminator's objective, and what is due when.

Each side's loss has a path to its own parameters alone:

    generator       reconstruction --> network with detached parameters --> loss        (`generator_loss`)
    discriminator   real, detached reconstruction --> network --> loss, LeCam, R1       (`Discrimination`)

B C H W: images, channels, height and width in pixels. P Q: rows and columns of the logits map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdversarialLoss(NamedTuple):
    """Both sides of a game over logits [B,1,P,Q]; each value is a mean over the logits map of an image, [B]."""

    generator: Callable[[Tensor], Tensor]
    """fake logits => what the generator minimises"""
    discriminator: Callable[[Tensor, Tensor], Tensor]
    """real and fake logits => what the discriminator minimises"""


def _mean(logits: Tensor) -> Tensor:
    return logits.mean(dim=(1, 2, 3))


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (_mean(F.relu(1.0 - real)) + _mean(F.relu(1.0 + fake)))


def _non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return _mean(F.softplus(-real)) + _mean(F.softplus(fake))


# Each with the factor it has where weights of LeCam and R1 are published for it: taming-transformers, latent-diffusion
# and LlamaGen halve the hinge, Open-MAGVIT2 (LeCam 0.05) does not halve the other.
ADVERSARIAL: dict[str, AdversarialLoss] = {
    # Lim & Ye 2017: generator -D(y), discriminator (relu(1 - D(x)) + relu(1 + D(y))) / 2.
    "hinge": AdversarialLoss(lambda fake: -_mean(fake), _hinge_discriminator),
    # Goodfellow et al. 2014, section 3: generator -log s(D(y)), discriminator -log s(D(x)) - log(1 - s(D(y))),
    # where s is the logistic function and -log s(t) = softplus(-t).
    "non_saturating": AdversarialLoss(lambda fake: _mean(F.softplus(-fake)), _non_saturating_discriminator),
}


def generator_loss(network: nn.Module, reconstruction: Tensor, loss: AdversarialLoss) -> Tensor:
    """Reconstruction [B,C,H,W] => [B] float32, with a gradient in the reconstruction and none in `network`.

    The network runs on its parameters detached. Switching `requires_grad` instead would be a state to restore, and DDP
    counts on it not changing.
    """
    detached = {name: parameter.detach() for name, parameter in network.named_parameters()}
    logits = torch.func.functional_call(network, detached, (reconstruction,))
    with torch.autocast(logits.device.type, enabled=False):
        return loss.generator(logits.float())


def r1_penalty(logits_real: Tensor, pixels_real: Tensor) -> Tensor:
    """||grad_x D(x)||^2 on real images (Mescheder et al. 2018, eq. 9 without its gamma / 2) => [B], differentiable.

    D(x) is the mean over the logits map [B,1,P,Q], as in the losses. The square is summed over the C*H*W values of an
    image, as in the paper, and not divided by their number.

    Args:
        logits_real: of a network that treats each image by itself.
        pixels_real: [B,C,H,W], which required a gradient when the logits were computed.
    """
    (gradient,) = torch.autograd.grad(_mean(logits_real.float()).sum(), pixels_real, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3))


class LeCam(nn.Module):
    """Keeps the logits of either side close to the running mean of the other's (Tseng et al. 2021).

        R(x, y) = relu(D(x) - a_fake)^2 + relu(a_real - D(y))^2        x real, y fake

    averaged over the logits map. a_real and a_fake are exponential moving averages of the global batch's mean logits.
    The paper's equation has no relu; its authors' code has it, and so have the trainers from which weights are taken.

    The forward reads the averages and `after_update` alone moves them, by means over the global batch: the penalty
    does not depend on how that batch is split. They are buffers and so part of the state that is saved. Until the
    first `after_update` there is nothing to be close to, and the penalty is 0.

    Args:
        decay: of the averages, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay of LeCam's averages must lie in [0, 1), got {decay}")
        self.decay = decay
        self.mean_real: Tensor
        self.mean_fake: Tensor
        self.started: Tensor
        self.register_buffer("mean_real", torch.zeros(()))
        self.register_buffer("mean_fake", torch.zeros(()))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """Logits [B,1,P,Q] of real and fake images, float32 => [B]."""
        real = F.relu(logits_real - self.mean_fake).square().mean(dim=(1, 2, 3))
        fake = F.relu(self.mean_real - logits_fake).square().mean(dim=(1, 2, 3))
        return torch.where(self.started, real + fake, 0.0)

    @torch.no_grad()
    def after_update(self, mean_real: float, mean_fake: float) -> None:
        """Move the averages by the mean logits of the global batch; once for each update of the discriminator."""
        # The averages start from the first means and not from 0, which would be an opinion about the logits.
        share = torch.where(self.started, 1.0 - self.decay, 1.0)
        self.mean_real += share * (mean_real - self.mean_real)
        self.mean_fake += share * (mean_fake - self.mean_fake)
        self.started.fill_(True)


class DiscriminationTerms(NamedTuple):
    """What the discriminator minimises on a batch, unweighted: each the mean over its images."""

    losses: dict[str, Tensor]
    """discriminator, lecam (if used), r1 (if asked for; its weight is gamma / 2)"""
    stats: dict[str, Tensor]
    """without gradient: logits_real and logits_fake, which over the global batch are what LeCam moves by"""


class Discrimination(nn.Module):
    """The discriminator's side behind one forward, so that whatever wraps the module (DDP, compile) sees all of it.

    Args:
        network: images [B,C,H,W] => logits [B,1,P,Q], each image by itself.
        loss: one of `ADVERSARIAL`.
        lecam: its regulariser, or None.
    """

    def __init__(self, network: nn.Module, loss: AdversarialLoss, lecam: LeCam | None = None) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.lecam = lecam

    def forward(self, real: Tensor, fake: Tensor, penalise: bool = False) -> DiscriminationTerms:
        """Real images and reconstructions of the same shape [B,C,H,W] => terms, with R1 if `penalise`.

        The network may run under autocast, but for R1: in half precision its second derivatives would underflow.
        Raises ValueError if `fake` still hangs on the autoencoder, which this side's gradient must never reach.
        """
        if fake.requires_grad:
            raise ValueError("the discriminator's fake images carry a gradient to the autoencoder: pass them detached")
        if real.shape != fake.shape:
            raise ValueError(f"real and fake images must have one shape, got {tuple(real.shape)}, {tuple(fake.shape)}")
        if penalise:
            # Apart, because the second derivatives need no graph of the fake half.
            real = real.detach().float().requires_grad_()
            with torch.autocast(real.device.type, enabled=False):
                logits_real, logits_fake = self.network(real), self.network(fake.float())
        else:
            logits_real, logits_fake = self.network(torch.cat([real, fake])).chunk(2)
        with torch.autocast(real.device.type, enabled=False):
            logits_real, logits_fake = logits_real.float(), logits_fake.float()
            losses = {"discriminator": self.loss.discriminator(logits_real, logits_fake).mean()}
            if self.lecam is not None:
                losses["lecam"] = self.lecam(logits_real, logits_fake).mean()
            if penalise:
                losses["r1"] = r1_penalty(logits_real, real).mean()
        stats = {"logits_real": logits_real.detach().mean(), "logits_fake": logits_fake.detach().mean()}
        return DiscriminationTerms(losses, stats)


@dataclass(frozen=True)
class Due:
    """Which parts of adversarial training an update has. What is not due is not computed."""

    discriminator: bool
    """the discriminator makes an update"""
    generator: bool
    """the autoencoder's loss has the adversarial term"""
    measure_adaptive_weight: bool
    """both last-layer gradients are taken, for the next update's weight"""


def due_at(step: int, *, start_step: int, warmup_steps: int, adaptive: bool) -> Due:
    """What is due at an update; `step` counts the updates already made, so the first update sees step 0.

    Args:
        step: the update.
        start_step: first update whose autoencoder sees the discriminator.
        warmup_steps: updates before it in which the discriminator learns alone: one that has learnt nothing yet
            spoils reconstructions when it starts to count.
        adaptive: whether the term's weight is an `AdaptiveWeight`, which needs a measurement one update earlier.

    Raises ValueError if there are not `warmup_steps` updates before `start_step`.
    """
    if not 0 <= warmup_steps <= start_step:
        raise ValueError(f"warmup_steps must lie in [0, start_step {start_step}], got {warmup_steps}")
    return Due(
        discriminator=step >= start_step - warmup_steps,
        generator=step >= start_step,
        measure_adaptive_weight=adaptive and step >= start_step - 1,
    )
