"""LeCam regularisation of a discriminator."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
