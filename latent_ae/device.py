"""The device that a model runs on, and whether bfloat16 is fast on the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from latent_ae.errors import UserError

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""in /proc/cpuinfo, the last on Arm"""
_ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""environment variables that limit the instructions of oneDNN, which computes torch's convolutions; the first counts"""
_ISA_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""values with which oneDNN emulates bfloat16; it ignores unknown values"""
_WITHOUT_FLOAT64 = ("mps",)
"""devices that cannot sum metrics"""
_CPU = torch.device("cpu")


def best_device() -> torch.device:
    """The available accelerator if it has float64, else the CPU."""
    found = _accelerator()
    return _CPU if found is None or found.type in _WITHOUT_FLOAT64 else found


def device_named(name: str | None) -> torch.device:
    """The device of a name such as cuda:1; None: the best one. Raises UserError that lists the available ones."""
    if name is None:
        return best_device()
    found = _accelerator()
    there = {"cpu": _CPU}
    if found is not None:
        there |= {found.type: found}
        there |= {f"{found.type}:{i}": torch.device(found.type, i) for i in range(torch.accelerator.device_count())}
    if name not in there:
        raise UserError(f"got the device {name!r}, expected an available one: {', '.join(there)}")
    return there[name]


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 that torch's convolutions use.

    Without them bfloat16 is emulated, several times slower than float32. The processor must list them in /proc/cpuinfo,
    which macOS does not have, and ONEDNN_MAX_CPU_ISA, if it is set, must allow them. torch's own checks look only at
    the processor (`torch.cpu`) or only at AVX-512 (`torch.ops.mkldnn._is_mkldnn_bf16_supported`).
    """
    limit = next((os.environ[name] for name in _ISA_VARIABLES if name in os.environ), "")
    file = Path("/proc/cpuinfo")
    listed = set(file.read_text(encoding="utf-8").split()) if file.exists() else set()
    return bool(listed & _BF16_FLAGS) and limit.upper() not in _ISA_WITHOUT_BF16


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operations on one thread, so that their sums do not depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _accelerator() -> torch.device | None:
    # Without the check torch returns what it was compiled for: CUDA, in its usual build.
    return torch.accelerator.current_accelerator(check_available=True)
