"""Limits of a server, with defaults that are safe on a small machine, and range checks of a request's parameters."""

import math
from dataclasses import dataclass, field
from typing import Any

from latent_ae.errors import UserError
from latent_ae.service.errors import BadRequest, TooLarge

MAX_SEED = 2**63 - 1
_CORNERS = 4
"""of an interpolation grid"""


def option(default: Any, text: str, **how: Any) -> Any:
    """A field that is an option of `latent-ae serve`: a positive number, or what the arguments for argparse say."""
    return field(default=default, metadata={"help": text, **how})


@dataclass(frozen=True)
class ServiceLimits:
    """Each limit is checked before the work that it bounds. `latent-ae serve` has an option for each."""

    upload_bytes: int = option(25 * 10**6, "maximum size of an uploaded file")
    pixels: int = option(
        4096 * 4096, "maximum number of pixels of an image, or of all images of one latent file or draw"
    )
    # Padding a thin strip to the model's factor would multiply its pixels.
    side: int = option(16_384, "maximum side of an image in pixels")
    queue: int = option(20, "maximum number of requests inside the server; the next one is refused as busy")
    deadline_seconds: float = option(120.0, "maximum time from a request's slot (its body has arrived) to its reply")
    batch_pixels: int = option(1024 * 1024, "maximum number of pixels per model batch")
    samples: int = option(64, "maximum number of images of one draw, interpolation or latent file; at least 4")
    memory_bytes: int | None = option(
        None, "maximum predicted memory of a request (default: the memory that is free when it arrives)"
    )

    def __post_init__(self) -> None:
        """Raises UserError for fewer samples than an interpolation grid has corners."""
        if self.samples < _CORNERS:
            raise UserError(
                f"--samples must be at least {_CORNERS} (the corners of an interpolation grid), got {self.samples}"
            )

    @property
    def default_count(self) -> int:
        """Number of images of a draw."""
        return min(16, self.samples)

    @property
    def default_steps(self) -> int:
        """Number of images of an interpolation."""
        return min(9, self.samples)

    @property
    def max_grid_side(self) -> int:
        """Maximum number of images along a side of an interpolation grid."""
        return math.isqrt(self.samples)

    @property
    def default_grid_side(self) -> int:
        """Number of images along a side of an interpolation grid."""
        return min(6, self.max_grid_side)


DEFAULTS = ServiceLimits()


def require_whole(name: str, value: object, low: int, high: int, *, default: int | None = None) -> int:
    """A whole number from `low` to `high`, the default instead of None. Raises BadRequest."""
    value = default if value is None else value
    # Forms and JSON give whole numbers as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}, got {str(value)[:40]}")
    return value


def require_number(name: str, value: object, low: float, high: float) -> float:
    """A number from `low` to `high`. Raises BadRequest."""
    # NaN is in no range.
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name} must be a number from {low:g} to {high:g}, got {str(value)[:40]}")
    return float(value)


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise BadRequest unless `value` is one of `choices`."""
    if value not in choices:
        raise BadRequest(f"{name} must be {' or '.join(choices)}, got {str(value)[:40]}")


def check_pixels(height: int, width: int, limits: ServiceLimits, *, count: int = 1) -> None:
    """Raise TooLarge for an image with too long a side, or for images with too many pixels together."""
    if max(height, width) > limits.side:
        raise TooLarge(
            f"the image is {width}x{height} pixels, and a side may have at most {limits.side}: scale it down"
        )
    if count * height * width > limits.pixels:
        what = "the image is" if count == 1 else f"these are {count} images of"
        raise TooLarge(
            f"{what} {width}x{height} pixels, {count * height * width / 1e6:.1f} million in all, and this server takes "
            f"at most {limits.pixels / 1e6:.1f} million: scale it down"
        )
