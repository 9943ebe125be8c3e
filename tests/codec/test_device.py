"""Where models run: on what is there, not on what torch was compiled for."""

import pytest
import torch

from latent_ae.codec import Codec, best_device, device_named
from latent_ae.codec.precision import _psnr, _relative
from latent_ae.codec.space import interpolate
from latent_ae.codec.tiling import Seam
from latent_ae.errors import UserError
from tests.codec.test_codec import stock

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
    with pytest.raises(UserError, match=r"got the device 'cuda:2', expected .* take cpu or cuda or cuda:0 or cuda:1"):
        device_named("cuda:2")
    accelerators(monkeypatch, "cuda", None)
    for name in ("cuda", "meta", "gpu", ""):
        with pytest.raises(UserError, match=f"got the device '{name}', expected one that is there: take cpu$"):
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


def test_a_time_is_taken_when_the_accelerator_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    Codec(stock(), name="m", precision="bf16")
    assert waited == []
    codec = Codec(stock(), name="m", precision="fp32")
    monkeypatch.setattr(codec._encoder.side, "device", torch.device("meta"))
    from latent_ae.codec.precision import _run

    monkeypatch.setattr(type(codec._encoder.side), "__call__", lambda side, inputs: inputs.to(side.device))
    _run(codec._encoder.side, torch.zeros(1, 3, 4, 4))
    assert waited == [torch.device("meta")]
