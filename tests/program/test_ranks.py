"""N processes with the same global batch train the model that one process trains."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from latent_ae.config import flatten
from tests.program.group import run_in_group
from tests.program.running import TORCHRUN, alone, arguments, assert_same_bits, launch, metrics, state

pytestmark = pytest.mark.slow  # every run is two programs and their group

STEPS = 8
# Micro-batches of other sizes are summed in another order, and AdamW turns the rounding of a gradient near zero into a
# share of the learning rate: 1e-6 is for a learning rate of 1e-4. Equal micro-batches agree to the last bit at any.
SLOW = ["--train.learning_rate", "1e-4"]
MORE = ["--train.checkpoint_every_steps", "8", "--loss.reconstruction", "gaussian_nll", "--data.crop", "random"]


def finished(folder: Path, *more: str, launcher: list[str] | None = None) -> Path:
    argv = arguments(folder, STEPS, *MORE, *more)
    run = launch(argv, launcher) if launcher else alone(argv)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("one"), *SLOW)


@pytest.fixture(scope="module")
def two_fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes started as a user starts them."""
    return finished(tmp_path_factory.mktemp("two fast"), launcher=TORCHRUN)


@pytest.fixture(scope="module")
def two_slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, with accumulation and without."""
    folder = tmp_path_factory.mktemp("two slow")
    given = {"plain": [], "accumulated": ["--train.accumulation", "2"]}
    jobs = [("", arguments(folder / name, STEPS, *MORE, *SLOW, *more)) for name, more in given.items()]
    run_in_group(jobs, folder)
    return folder


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("accumulated"), "--train.accumulation", "2")


def assert_close_to_one_process(folder: Path, one: Path) -> None:
    ours, theirs = state(folder, STEPS), state(one, STEPS)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.startswith(("weights", "ema")):
            torch.testing.assert_close(
                ours[name], tensor, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_two_processes_equal_one(one: Path, two_slow: Path) -> None:
    assert_close_to_one_process(two_slow / "plain", one)
    for ours, theirs in zip(metrics(two_slow / "plain"), metrics(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_two_processes_with_accumulation_equal_one(one: Path, two_slow: Path) -> None:
    assert_close_to_one_process(two_slow / "accumulated", one)


def test_one_process_with_accumulation_is_two_processes_to_the_last_bit(two_fast: Path, accumulated: Path) -> None:
    # The same micro-batches are added up, by DDP or by accumulation.
    assert_same_bits(state(accumulated, STEPS), state(two_fast, STEPS))


def test_two_processes_measure_what_one_measures(two_fast: Path, accumulated: Path) -> None:
    for file in ("evaluation.json", "model/config.json", "model/latent_stats.json"):
        one, two = (flatten(json.loads((folder / "run" / file).read_text())) for folder in (accumulated, two_fast))
        # Batches of other sizes round otherwise; a missing or doubled image would show in the third digit.
        assert one.keys() == two.keys()
        for name in one.keys() - {"encoder_identity", "warnings"}:
            values = two[name] if isinstance(two[name], list) else [two[name]]
            numbers = values and all(isinstance(value, (int, float)) for value in values)
            assert one[name] == (pytest.approx(two[name], rel=1e-5, abs=1e-8) if numbers else two[name])


def test_accelerate_launch_with_fewer_processes_than_asked_is_an_error(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    run = launch(arguments(tmp_path, 2), launcher)
    assert run.returncode != 0
    assert "several CPU processes were asked for" in run.stderr
    assert "torchrun --nproc_per_node N train/train.py" in run.stderr
    assert not (tmp_path / "run").exists()


def test_accelerate_launch_starts_a_run_with_the_projects_config(tmp_path: Path) -> None:
    from tests.program.running import ROOT

    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "accelerate_config.yaml"),
    ]
    run = launch(arguments(tmp_path, 2), launcher)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    # The launcher gives a process one thread; on a CPU that would leave the other cores idle.
    assert f"1 process on cpu, {len(os.sched_getaffinity(0))} threads each" in run.stdout
