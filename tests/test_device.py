"""Where models run: on what is there, not on what torch was compiled for."""

import os
import platform
import re
import subprocess
import sys

import pytest
import torch

from latent_ae.device import multiplies_bf16
from latent_ae.errors import UserError
from latent_ae.inference import Codec, best_device, device_named
from latent_ae.inference.precision import _psnr, _relative
from latent_ae.inference.tiling import Seam
from latent_ae.inference.timing import Pace
from latent_ae.models.latent_space import interpolate
from tests.inference.test_codec import stock

CPU = torch.device("cpu")


def accelerators(monkeypatch: pytest.MonkeyPatch, compiled: str, there: str | None, count: int = 1) -> None:
    """A torch that was compiled for one accelerator, on a machine that has it or not."""

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        name = there if check_available else compiled
        return None if name is None else torch.device(name)

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.mark.parametrize(("there", "best"), [(None, "cpu"), ("cuda", "cuda"), ("mps", "cpu"), ("xpu", "xpu")])
def test_the_best_device_is_there_and_has_float64(
    monkeypatch: pytest.MonkeyPatch, there: str | None, best: str
) -> None:
    accelerators(monkeypatch, compiled=there or "cuda", there=there)
    assert best_device() == device_named(None) == torch.device(best)


def test_a_device_is_taken_by_its_name_if_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerators(monkeypatch, "cuda", "cuda", count=2)
    assert device_named("cuda:1") == torch.device("cuda", 1)
    assert device_named("cpu") == CPU
    with pytest.raises(
        UserError, match=r"got the device 'cuda:2', expected an available one: cpu, cuda, cuda:0, cuda:1"
    ):
        device_named("cuda:2")
    accelerators(monkeypatch, "cuda", None)
    for name in ("cuda", "meta", "gpu", ""):
        with pytest.raises(UserError, match=f"got the device '{name}', expected an available one: cpu$"):
            device_named(name)


class WithoutFloat64(torch.Tensor):
    """A tensor as of a device that has no float64."""

    def double(self) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_sums_in_float64_are_taken_on_the_cpu() -> None:
    a, b = (torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    c, d = (each.as_subclass(WithoutFloat64) for each in (a, b))
    assert _relative(c, d) == _relative(a, b)
    assert _psnr(c, d) == _psnr(a, b)
    assert torch.equal(interpolate(c, d, 3, spherical=True), interpolate(a, b, 3, spherical=True))
    seams = Seam(), Seam()
    for seam, pair in zip(seams, ((a, b), (c, d)), strict=True):
        seam.add(*pair, torch.ones(4, 5, dtype=torch.bool))
    assert seams[0].decibel == seams[1].decibel


def test_a_pace_is_of_finished_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accelerator was given is done when its result is on the CPU. Of two runs the better counts."""
    codec = Codec(stock(), name="m")
    # Of each side twice the side, then twice its attention: 32x32 positions of 8 channels, each for 4x4 pixels.
    clock = iter([0.0, 10.0, 20.0, 24.0, 30.0, 33.0, 40.0, 42.0, 50.0, 51.0, 60.0, 68.0, 70.0, 71.0, 80.0, 80.5])
    fetched: list[torch.Size] = []
    fetch = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: fetched.append(tensor.shape) or fetch(tensor))
    monkeypatch.setattr("latent_ae.inference.timing.time.perf_counter", lambda: next(clock))
    pair = 1 / (1024 * (1024 + 2 * 8)) / 16**2
    assert codec.paces == (Pace(4 / 64**2, pytest.approx(2 * pair)), Pace(1 / 64**2, pytest.approx(0.5 * pair)))
    assert len(fetched) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags : fpu avx2", False),
        ("flags : avx512_bf16 fpu", True),
        ("flags : amx_bf16", True),
        ("Features: bf16", True),
    ],
)
def test_bf16_is_told_by_the_processors_flags(monkeypatch: pytest.MonkeyPatch, text: str, expected: bool) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.read_text", lambda path, encoding: text)
    assert multiplies_bf16() is expected


def test_without_proc_bf16_instructions_are_taken_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: there is nothing that lists them."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: not str(path).startswith("/proc"))
    assert multiplies_bf16() is False


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        *((each, False) for each in ("SSE41", "AVX2", "avx2", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")),
        *((each, True) for each in ("AVX512_CORE_BF16", "AVX512_CORE_AMX", "AVX10_1_512", "DEFAULT", "", "nonsense")),
    ],
)
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_instructions_that_onednn_may_not_use_are_not_there(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: str, expected: bool
) -> None:
    """Read off oneDNN 3.12's own log: which kernel it takes for a bfloat16 convolution under each limit."""
    monkeypatch.setattr("pathlib.Path.read_text", lambda path, encoding: "flags : avx512_bf16")
    for each in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, limit)
    assert multiplies_bf16() is expected


KERNELS = """
import torch
from latent_ae.device import multiplies_bf16
inputs = torch.ones(1, 64, 32, 32).bfloat16()
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    torch.nn.functional.conv2d(inputs.to(memory_format=torch.channels_last), torch.ones(64, 64, 3, 3).bfloat16())
print("multiplies_bf16", multiplies_bf16())
"""


@pytest.mark.slow  # starts a process for each limit
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="kernels have other names on other processors"
)
@pytest.mark.parametrize("limit", ["ALL", "AVX512_CORE", "AVX2"])
def test_what_is_told_is_what_onednn_does(limit: str) -> None:
    """Whichever processor this is: the kernel that multiplies bfloat16 by its own instructions runs, or does not."""
    done = subprocess.run(
        [sys.executable, "-c", KERNELS],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    own = re.search(r"exec,cpu,convolution,[^,]*(avx512_core_bf16|avx512_core_fp16|amx)", done.stdout) is not None
    assert f"multiplies_bf16 {own}" in done.stdout
