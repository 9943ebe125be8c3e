"""Huge pages are asked for where there are some and nobody has decided otherwise, and free memory goes back."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from latent_ae.allocator import release_free_memory, use_huge_pages

VARIABLE = "THP_MEM_ALLOC_ENABLE"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(VARIABLE, "")  # so that it is taken back afterwards
    monkeypatch.delenv(VARIABLE)
    return monkeypatch


@pytest.mark.parametrize(
    ("setting", "asked"),
    [
        ("always [madvise] never\n", "1"),
        ("[always] madvise never\n", "1"),
        ("always madvise [never]\n", None),
        (None, None),
    ],
)
def test_the_kernel_says_whether_there_are_any(
    setting: str | None, asked: str | None, tmp_path: Path, variable: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "enabled"
    if setting is not None:
        file.write_text(setting)
    use_huge_pages(file)
    assert os.environ.get(VARIABLE) == asked


def test_what_somebody_has_decided_is_kept(tmp_path: Path, variable: pytest.MonkeyPatch) -> None:
    variable.setenv(VARIABLE, "0")
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    use_huge_pages(tmp_path / "enabled")
    assert os.environ[VARIABLE] == "0"


LARGE = """
from latent_ae.allocator import use_huge_pages
use_huge_pages()
import torch
large = torch.ones(2**24)
start, length = large.data_ptr(), large.nbytes
inside = False
for line in open("/proc/self/smaps"):
    words = line.split()
    if "-" in words[0] and not words[0].endswith(":"):
        first, last = (int(each, 16) for each in words[0].split("-"))
        inside = first <= start < last
    elif inside and words[0] == "VmFlags:":
        print("hg" in words)
"""
"""says whether the kernel was asked for huge pages for a tensor of 64 MiB: `hg` of its mapping"""


@pytest.mark.skipif(not KERNEL.is_file() or "[never]" in KERNEL.read_text(), reason="the kernel has no huge pages")
@pytest.mark.parametrize(("given", "asked"), [({}, "True"), ({VARIABLE: "0"}, "False")])
def test_torch_asks_for_them(given: dict[str, str], asked: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    run = subprocess.run([sys.executable, "-c", LARGE], env={**environment, **given}, capture_output=True, text=True)
    assert (run.stdout.split(), run.stderr) == ([asked], "")


LEFT = """
import time
from pathlib import Path
import torch
from latent_ae.service.queue import Job, ModelQueue

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

kept = []

def run(payloads, tick):  # blocks too small for mappings of their own, and among them some that stay
    blocks = [torch.ones(25_000) for _ in range(2000)]
    kept.extend(blocks[::100])
    highest.append(resident())
    return [None]

for pixels in (1, 512 * 512):
    highest = []
    before = resident()
    queue = ModelQueue(2**20)
    queue.run([Job("key", run, None, pixels)], deadline=time.monotonic() + 600)
    queue.close()
    print(highest[0] - before, resident() - before)
"""
"""MiB that a job takes and leaves in the queue's process: a small one, and a large one"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
def test_a_large_request_leaves_nothing_behind() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run([sys.executable, "-c", LEFT], env=environment, capture_output=True, text=True)
    assert run.stderr == ""
    small, large = ([int(word) for word in line.split()] for line in run.stdout.splitlines())
    # 190 MiB of blocks, 2 of which stay; what nothing gives back is above them in the heap
    assert small[0] > 150
    assert small[1] > 100
    assert small[1] + large[1] < 20


class Library:
    """A C library that counts."""

    def __init__(self) -> None:
        self.trims = 0

    def malloc_trim(self, _: object) -> None:
        self.trims += 1


@pytest.mark.parametrize(
    ("variable", "trims"), [("OTHER", 1), ("MALLOC_TRIM_THRESHOLD_", 0), ("MALLOC_ARENA_MAX", 0), ("GLIBC_TUNABLES", 0)]
)
def test_memory_that_somebody_keeps_is_left_alone(variable: str, trims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    library = Library()
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.setenv(variable, "1")
    release_free_memory()
    assert library.trims == trims


def test_a_library_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    release_free_memory()
