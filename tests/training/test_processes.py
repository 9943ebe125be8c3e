"""Where a run takes place, and what it refuses to do there."""

from collections.abc import Iterator
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from latent_ae.errors import UserError
from latent_ae.training import processes
from latent_ae.training.processes import describe_processes, start_accelerator


@pytest.fixture(autouse=True)
def _fresh_accelerate_state() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("from_launcher", [False, True])
def test_fp16_on_a_cpu_is_refused_as_it_would_be_float32(from_launcher: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16" if from_launcher else "no")
    monkeypatch.setattr(processes, "_device_type", lambda: "cpu")
    with pytest.raises(UserError, match=r"fp16 .* needs a GPU, got the cpu: give bf16 or no"):
        start_accelerator(mixed_precision=None if from_launcher else "fp16", accumulation=1)


def test_an_apple_gpu_is_left_alone_and_the_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(processes, "_device_type", lambda: "mps")
    monkeypatch.setattr(processes, "Accelerator", lambda **given: (asked.append(given), Accelerator(**given))[1])
    accelerator = start_accelerator(mixed_precision="no", accumulation=1)
    assert [given["cpu"] for given in asked] == [True]
    assert describe_processes(accelerator).startswith("1 process on cpu (not the Apple GPU, which lacks float64), ")
