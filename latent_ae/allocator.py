"""Memory of large tensors on a CPU: in huge pages, and given back to the system.

torch takes the memory of a large tensor from the system and gives it back when the tensor is gone, and the system
clears each page of 4 KiB when it is first written: for normalisation and activations that takes longer than to compute
them. In pages of 2 MiB it takes a fraction, and nothing is kept that other programs could use.
"""

import ctypes
import os
from pathlib import Path

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TORCH_VARIABLE = "THP_MEM_ALLOC_ENABLE"
"""of torch, which reads it when it takes memory for the first time"""


def use_huge_pages(setting: Path = _HUGE_PAGES) -> None:
    """Let torch ask for huge pages for tensors of 2 MiB and more, where the system has them for those who ask.

    Does nothing where somebody has decided by the environment variable THP_MEM_ALLOC_ENABLE, and on systems without
    huge pages or with `never` for them. Call it before torch is used.

    Args:
        setting: the file of the Linux kernel that says for whom huge pages are.
    """
    if setting.is_file() and "[never]" not in setting.read_text(encoding="ascii"):
        os.environ.setdefault(_TORCH_VARIABLE, "1")


def release_free_memory() -> None:
    """Give back to the system what the C library keeps of freed memory.

    Does nothing where the library cannot, as only glibc can, and where somebody has decided what it keeps, by
    variables MALLOC_... or GLIBC_TUNABLES of the environment.
    """
    decided = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and not decided:
        trim(ctypes.c_size_t(0))
