"""SIGTERM and Ctrl-C save at the next step boundary, on all processes together; a second signal ends at once."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program.forked import PATIENCE, Forked
from tests.program.running import TORCHRUN, TRAIN, alone, arguments, environment, metrics, start, state

pytestmark = pytest.mark.slow  # whole programs

MANY = 100_000


def wait_for(condition: Callable[[], bool], process: "Forked | subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def logged(folder: Path, lines: int) -> Callable[[], bool]:
    file = folder / "run" / "metrics.jsonl"
    return lambda: file.exists() and len(file.read_text().splitlines()) >= lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_status(tmp_path: Path, number: signal.Signals) -> None:
    argv = arguments(tmp_path, MANY, "--train.schedule", "constant")
    process = start(argv)
    wait_for(logged(tmp_path, 3), process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number, err
    last = int(metrics(tmp_path)[-1]["step"])
    assert f"{number.name}: saved after step {last}" in out + err
    assert state(tmp_path, last)


def test_a_signal_during_evaluation_saves(tmp_path: Path) -> None:
    more = ["--evaluation.max_images", "359", "--evaluation.batch_size", "1", "--train.evaluate_every_steps", "2"]
    process = start(arguments(tmp_path, MANY, "--train.schedule", "constant", *more))
    wait_for(lambda: "evaluating" in process.said(), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert not (tmp_path / "run" / "heldout.jsonl").exists()
    assert state(tmp_path, int(metrics(tmp_path)[-1]["step"]))


def test_a_signal_during_the_last_evaluation_saves_and_the_run_can_be_finished(tmp_path: Path) -> None:
    argv = arguments(tmp_path, 3, "--evaluation.max_images", "359", "--evaluation.batch_size", "1")
    process = start(argv)
    wait_for(lambda: "evaluating" in process.said(), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert not (tmp_path / "run" / "model").exists()
    finished = alone(argv)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    # An evaluation of one large batch does not come to a boundary soon.
    more = ["--train.batch_size", "1024", "--data.resolution", "32"]
    process = start(arguments(tmp_path, MANY, "--train.schedule", "constant", *more))
    wait_for(lambda: "gradient norm" in process.said(), process)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_signal_to_one_rank_saves_on_all_together(tmp_path: Path) -> None:
    command = [*TORCHRUN, str(TRAIN), *arguments(tmp_path, MANY, "--train.schedule", "constant")]
    process = subprocess.Popen(command, env=environment(), stdout=-1, stderr=-1, text=True)
    wait_for(logged(tmp_path, 3), process)
    os.kill(rank_process(process.pid, 1), signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    last = int(metrics(tmp_path)[-1]["step"])
    assert f"SIGTERM: saved after step {last}" in err + _
    assert state(tmp_path, last)
    assert "exitcode  : 143" in err, err


def rank_process(launcher: int, rank: int) -> int:
    """The process id of a rank, found by its environment among the launcher's children."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=True)
    for pid in map(int, children.stdout.split()):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return pid
    raise AssertionError(f"rank {rank} is not among the children of {launcher}")
