"""Where a model runs, and what is fast there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from latent_ae.errors import UserError

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""in /proc/cpuinfo, the last on Arm"""
_ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""environment variables that limit the instructions of oneDNN, which computes torch's convolutions; the first wins"""
_ISA_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""values of the variables with which oneDNN emulates bfloat16; it ignores values that it does not know"""

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


def multiplies_bf16() -> bool:
    """Whether torch's convolutions on this CPU multiply bfloat16 by instructions of its own.

    Without them bfloat16 is emulated, several times slower than float32. The processor must list them, and
    ONEDNN_MAX_CPU_ISA, where it is set, must let oneDNN use them. torch's own checks look at the processor alone
    (`torch.cpu`) or ask only for AVX-512 (`torch.ops.mkldnn._is_mkldnn_bf16_supported`).
    """
    limit = next((os.environ[name] for name in _ISA_VARIABLES if name in os.environ), "")
    file = Path("/proc/cpuinfo")
    listed = set(file.read_text(encoding="utf-8").split()) if file.exists() else set()
    return bool(listed & _BF16_FLAGS) and limit.upper() not in _ISA_WITHOUT_BF16


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own operations on a single thread: their sums do not depend on how many there might be."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _accelerator() -> torch.device | None:
    # Without the check torch says what it was compiled for, and its usual build is compiled for CUDA.
    return torch.accelerator.current_accelerator(check_available=True)
