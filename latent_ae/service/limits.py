"""What a server takes on, with defaults that are safe on a small machine."""

from dataclasses import dataclass


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


DEFAULTS = ServiceLimits()
