"""What a hierarchical prior minimises.

    loss = mean_B [ -log p(z|u) + beta * sum_l max(free, KL(q(u_l|u_<l, z) || p(u_l|u_<l))) ] / (c h w)

With beta 1 and nothing free it is the negative lower bound of log p(z) in nats per latent value.
"""

from torch import Tensor

from latent_ae.models.hierarchical_prior import HierarchyTerms


def beta_at(step: int, warmup_steps: int) -> float:
    """The KL's weight of an update, `step` updates having been made: 0 at first, 1 from `warmup_steps` on."""
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def ladder_loss(terms: HierarchyTerms, *, beta: float, free_nats: float, values: int) -> dict[str, Tensor]:
    """The loss and, beside it, the bound and each level's KL in nats, as means over the batch.

    `values` is c * h * w. Free nats are per image and level and not of a batch's mean, so that the loss of a batch does
    not depend on how it is cut into micro-batches.
    """
    held = terms.kl.clamp(min=free_nats)
    minimised = (terms.reconstruction + beta * held.sum(1)) / values
    levels = terms.kl.detach().mean(0)
    return {
        "loss": minimised.mean(),
        "bound_nats": (terms.reconstruction.detach() + terms.kl.detach().sum(1)).mean(),
        **{f"kl_level_{number}": kl for number, kl in enumerate(levels, start=1)},
    }
