"""Where a run takes place, and what it refuses to do there."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from latent_ae.errors import UserError
from latent_ae.training import distributed as processes
from latent_ae.training.distributed import describe_processes, start_accelerator
from tests.program.forked import Group
from tests.program.running import environment


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


def test_on_macos_which_has_no_affinity_a_process_takes_its_share_of_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no"), ("OMP_NUM_THREADS", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    try:
        start_accelerator(mixed_precision="no", accumulation=1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def kept_group(_: list[str]) -> None:
    """A process whose group has ended, and whose wrapped module is gone."""
    accelerator = start_accelerator(mixed_precision="no", accumulation=1)
    group = weakref.ref(torch.distributed.group.WORLD)
    prepared = accelerator.prepare_model(torch.nn.Linear(1, 1))
    prepared(torch.zeros(1, 1)).sum().backward()
    accelerator.end_training()
    del prepared, accelerator
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()
    print(f"ended {not torch.distributed.is_initialized()}, kept {group() is not None}", flush=True)


@pytest.mark.slow  # a group of two processes
def test_it_is_not_for_the_wrapper_to_take_the_group_apart() -> None:
    run = Group("tests.training.test_distributed:kept_group", [], environment()).finished()
    assert run.returncode == 0, run.stderr
    assert run.stdout == "ended True, kept True\n" * 2
