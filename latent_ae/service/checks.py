"""Parameters that a visitor gives."""

import math

from latent_ae.service.errors import BadRequest


def whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number from `low` to `high`. Raises BadRequest."""
    # Forms and JSON give whole numbers as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name} is a whole number from {low} to {high}, got {str(value)[:40]}")
    return value


def real(name: str, value: object, low: float, high: float) -> float:
    """A number from `low` to `high`. Raises BadRequest."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high or math.isnan(value):
        raise BadRequest(f"{name} is a number from {low:g} to {high:g}, got {str(value)[:40]}")
    return float(value)


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise BadRequest for anything but one of `choices`."""
    if value not in choices:
        raise BadRequest(f"{name} is {' or '.join(choices)}, got {str(value)[:40]}")
