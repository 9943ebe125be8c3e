"""What a server takes on, with defaults that are safe on a small machine."""

import math
from dataclasses import dataclass

from latent_ae.errors import UserError

TILE = 512
"""pixels a side of the tiles that larger images are coded in unless a server is told otherwise"""

_LEAST_SAMPLES = 4
"""the corners of a walk"""


@dataclass(frozen=True)
class ServiceLimits:
    """Every limit holds before the work that it is there to prevent."""

    upload_bytes: int = 25 * 10**6
    pixels: int = 4096 * 4096
    """of an image, or of all images of a latent file or of a draw together"""
    side: int = 16_384
    """of an image, in pixels: padding a thin strip to the model's factor would multiply its pixels"""
    queue: int = 20
    """requests that are inside the service; the next one is told that the server is busy"""
    deadline_seconds: float = 120.0
    """from a request's arrival to its answer"""
    batch_pixels: int = 1024 * 1024
    """of the images that are encoded or decoded together"""
    samples: int = 64
    """images of one draw, of a morph, or of a latent file"""
    memory_bytes: int | None = None
    """that a request may need by prediction; None: what the machine has free when it comes"""

    def __post_init__(self) -> None:
        """Raises UserError for fewer samples than the four corners of a walk."""
        if self.samples < _LEAST_SAMPLES:
            raise UserError(f"--samples {self.samples}: expected {_LEAST_SAMPLES} or more, the corners of a walk")

    @property
    def usual_count(self) -> int:
        """Images of a draw where none are asked for."""
        return min(16, self.samples)

    @property
    def usual_steps(self) -> int:
        """Images of a way where none are asked for."""
        return min(9, self.samples)

    @property
    def most_side(self) -> int:
        """Images along a side of a walk."""
        return math.isqrt(self.samples)

    @property
    def usual_side(self) -> int:
        """The same where none are asked for."""
        return min(6, self.most_side)


DEFAULTS = ServiceLimits()
