"""Resuming is never having stopped: to the last bit, in a new process, in the middle of an epoch, twice."""

import os
import random
from pathlib import Path

import pytest

from tests.program.running import PYTHON, alone, arguments, assert_same_bits, kill_after, launch, metrics, start, state

pytestmark = pytest.mark.slow  # whole programs, killed and started again

STEPS = 50
EVERY = ["--train.checkpoint_every_steps", "10", "--train.keep_checkpoints", "9", "--data.crop", "random"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never stops, started as a user starts it."""
    folder = tmp_path_factory.mktemp("whole")
    finished = launch(arguments(folder, STEPS, *EVERY), PYTHON)
    assert finished.returncode == 0, finished.stderr
    assert len(metrics(folder)) == STEPS
    return folder


def run_until_killed(folder: Path, after_step: int) -> None:
    kill_after(start(arguments(folder, STEPS, *EVERY)), folder, after_step)


def assert_equal_runs(folder: Path, whole: Path) -> None:
    assert metrics(folder) == metrics(whole)
    assert_same_bits(state(folder, STEPS), state(whole, STEPS))


def test_killed_at_a_random_moment_and_resumed(whole: Path, tmp_path: Path) -> None:
    moment = random.SystemRandom().randint(12, STEPS - 5)
    print(f"killed after step {moment}")
    run_until_killed(tmp_path, moment)
    resumed = alone(arguments(tmp_path, STEPS, *EVERY))
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after step" in resumed.stdout
    assert_equal_runs(tmp_path, whole)


def test_resumed_twice_in_one_epoch(whole: Path, tmp_path: Path) -> None:
    # 1,438 images make an epoch of 179 steps here: both moments lie in the first.
    for moment in (13, 24):
        run_until_killed(tmp_path, moment)
    resumed = alone(arguments(tmp_path, STEPS, *EVERY))
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after step 20" in resumed.stdout
    assert_equal_runs(tmp_path, whole)


def test_consecutive_checkpoints_differ(whole: Path) -> None:
    # Or the comparisons above would hold for a trainer that does nothing.
    before, after = state(whole, STEPS - 10), state(whole, STEPS)
    assert not any(bool((before[name] == after[name]).all()) for name in after if name.startswith(("weights", "ema")))


def test_worker_processes_do_not_change_a_bit(whole: Path, tmp_path: Path) -> None:
    finished = alone(arguments(tmp_path, STEPS, *EVERY, "--data.workers", "2"))
    assert finished.returncode == 0, finished.stderr
    assert_equal_runs(tmp_path, whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(tmp_path, 4, "--train.checkpoint_every_steps", "2", "--train.schedule", "constant")
    assert main(argv) == 0
    whole = state(tmp_path, 4)
    newest = tmp_path / "run" / "checkpoints" / "step-00000004"
    os.truncate(newest / "ema.safetensors", 100)
    capsys.readouterr()
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert f"passing over the damaged checkpoint {newest}: ema.safetensors does not match its sha256" in out
    assert "going on after step 2" in out
    assert_same_bits(state(tmp_path, 4), whole)


def test_resume_from_a_path_and_under_another_name(main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = ["--train.checkpoint_every_steps", "2", "--train.schedule", "constant"]
    assert main(arguments(tmp_path / "a", 4, *every)) == 0
    whole = state(tmp_path / "a", 4)
    path = str(tmp_path / "a" / "run" / "checkpoints" / "step-00000002")
    assert main(arguments(tmp_path / "b", 4, *every, "--resume", path)) == 0
    assert_same_bits(state(tmp_path / "b", 4), whole)
    # In its own run the later checkpoint stands in the way.
    capsys.readouterr()
    assert main(arguments(tmp_path / "a", 4, *every, "--resume", path)) == 2
    assert "holds later checkpoints" in capsys.readouterr().err


def test_a_constant_schedule_may_be_prolonged(main, tmp_path: Path) -> None:
    constant = ["--train.schedule", "constant"]
    assert main(arguments(tmp_path / "short", 3, *constant)) == 0
    assert main(arguments(tmp_path / "short", 6, *constant)) == 0
    assert main(arguments(tmp_path / "long", 6, *constant)) == 0
    assert_same_bits(state(tmp_path / "short", 6), state(tmp_path / "long", 6))
    assert metrics(tmp_path / "short") == metrics(tmp_path / "long")
