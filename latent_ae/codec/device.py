"""Where a model runs."""

import torch

from latent_ae.errors import UserError

_WITHOUT_FLOAT64 = ("mps",)
"""on which sums of measures cannot be taken"""
_CPU = torch.device("cpu")


def best_device() -> torch.device:
    """The accelerator that is there and has float64, else the CPU."""
    found = _accelerator()
    return _CPU if found is None or found.type in _WITHOUT_FLOAT64 else found


def device_named(name: str | None) -> torch.device:
    """A device by its name, as cuda:1; None: the best. Raises UserError with those that there are."""
    if name is None:
        return best_device()
    found = _accelerator()
    there = {"cpu": _CPU}
    if found is not None:
        there |= {found.type: found}
        there |= {f"{found.type}:{i}": torch.device(found.type, i) for i in range(torch.accelerator.device_count())}
    if name not in there:
        raise UserError(f"got the device {name!r}, expected one that is there: take {' or '.join(there)}")
    return there[name]


def _accelerator() -> torch.device | None:
    # Without the check torch says what it was compiled for, and its usual build is compiled for CUDA.
    return torch.accelerator.current_accelerator(check_available=True)
