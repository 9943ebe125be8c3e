"""What is common to learned priors: what draws latents for an autoencoder that was trained before them."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.models.errors import ModelError


@dataclass(frozen=True)
class DrawOptions:
    """How to draw, where it is not as a prior learned it. Each kind of prior refuses what has no effect on it.

    Raises UserError for a value out of range.
    """

    temperature: float | None = None
    """0 is the most probable, 1 the prior"""
    label: int | None = None
    """class of all draws; None: a prior that knows classes draws them in turn"""
    top_k: int | None = None
    """draw each code from so many of the most probable ones"""
    top_p: float | None = None
    """draw each code from the most probable ones that together have this probability"""

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature <= 100:
            raise UserError(f"temperature must be from 0 to 100, got {self.temperature:g}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p must be above 0 and at most 1, got {self.top_p:g}")

    def only(self, *names: str, of: str) -> None:
        """Raise UserError if an option besides these is given; `of` is what they would have no effect on."""
        for name, value in asdict(self).items():
            if value is not None and name not in names:
                raise UserError(f"{name.replace('_', '-')} {value} has no effect on {of}: leave it out")


@runtime_checkable
class LearnedPrior(Protocol):
    """A prior over the latents of one encoder, or over its codes."""

    encoder_identity: str
    """of the autoencoder whose latents it draws"""
    side: int
    """of the grid of what it draws"""
    classes: tuple[int, ...]
    """labels that it can be asked for"""

    def drawn(self, count: int, *, seed: int, options: DrawOptions) -> Tensor:
        """Raw latents [count,c,h,w] float32, or codes [count,h,w] int64.

        A draw follows from the seed and its place alone. Raises UserError for options that have no effect or that the
        prior cannot meet.
        """

    def to(self, device: Any) -> Any:
        """Itself, moved."""


def check_prior(prior: LearnedPrior, identity: str, name: str) -> None:
    """Raise ModelError unless the prior is of the latents of the encoder with this identity; `name` is the prior's."""
    if prior.encoder_identity != identity:
        raise ModelError(
            f"the prior {name} is of the latents of the encoder {prior.encoder_identity or 'unknown'}, and the model's "
            f"is {identity}: give the model it was trained on, or train a prior on this one's latents"
        )
