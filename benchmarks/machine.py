"""What a benchmark says about the machine it ran on: its processor, its memory and its fastest matrix product."""

import ctypes
import gc
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_SAMPLING_SECONDS = 0.002
_MATMUL_SECONDS = 1.0


def bf16_support(device: torch.device) -> tuple[bool, str]:
    """Whether the device multiplies bfloat16 by instructions of its own, and how that was told."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False), "torch.cuda.is_bf16_supported, no emulation"
    flags = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())  # x86 and Arm
    return bool(flags & _BF16_FLAGS), f"/proc/cpuinfo lists {' or '.join(sorted(_BF16_FLAGS))}"


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
    process, done = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not done.wait(_SAMPLING_SECONDS):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return (highest - before) / 2**20, f"growth of the resident set, sampled every {_SAMPLING_SECONDS * 1e3:g} ms"


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


def _cpuinfo(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
