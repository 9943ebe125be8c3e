"""What a benchmark says about the machine it ran on: its processor, its memory and its fastest matrix product."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import torch

from latent_ae.device import multiplies_bf16

_MATMUL_SECONDS = 1.0


def bf16_support(device: torch.device) -> tuple[bool, str]:
    """Whether the device multiplies bfloat16 by instructions of its own, and how that was told."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False), "torch.cuda.is_bf16_supported, no emulation"
    return multiplies_bf16(), "/proc/cpuinfo lists them, and ONEDNN_MAX_CPU_ISA allows them"


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def wait_for(device: torch.device) -> None:
    """Until everything that was launched is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(work: Callable[[], None], device: torch.device) -> tuple[float, str]:
    """MiB by which `work` raises the memory in use at its peak, and how that was told."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait_for(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20, "torch.cuda.max_memory_allocated"
    # glibc keeps freed memory, which would hide the growth of whatever runs second.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the kernel's high-water mark starts anew
    before = psutil.Process().memory_info().rss
    work()
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    highest = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return (highest - before) / 2**20, "growth of the resident set at its peak, which the kernel notes (VmHWM)"


def matmul_tflops(dtype: torch.dtype, device: torch.device, *, native: bool) -> float:
    """TFLOP/s of the best of a second's products of square matrices, small ones where the type is emulated."""
    side = 8192 if device.type == "cuda" else 2048 if native else 256
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < _MATMUL_SECONDS:
        wait_for(device)
        start = time.perf_counter()
        one @ other
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds) / 1e12


def rounded(value: float) -> float:
    """To four significant digits, whatever its size."""
    return float(f"{value:.4g}")


def _cpuinfo(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
