"""A sweep trains what is not finished, goes on where it was interrupted, and compares what was trained."""

import json
import signal
import time
from pathlib import Path

import pytest

from latent_ae.evaluation.report import EvaluationReport
from tests.program.forked import PATIENCE, ROOT, Finished, fork
from tests.program.running import TINY, alone, environment, together

pytestmark = pytest.mark.slow  # whole programs

SWEEP = ROOT / "train" / "sweep.py"
SHORT = [
    "--train.checkpoint_every_steps",
    "2",
    "--train.schedule",
    "constant",
    "--train.learning_rate",
    "1e-2",
    "--loss.beta_warmup_steps",
    "1",
]


def words(folder: Path, *more: str) -> list[str]:
    given = [*TINY, *SHORT, "--output_dir", str(folder), "--name", "all", *more]
    return [*given, "--vary", "loss.beta=0.1,1000"] if "--vary" not in more else given


def checked(folder: Path, finished: Finished) -> list[dict[str, float]]:
    """The rows of a finished sweep, which are what the runs' own evaluations say."""
    assert finished.returncode == 0, finished.stderr
    rows: list[dict[str, float]] = json.loads((folder / "all" / "sweep.json").read_text())["runs"]
    for row in rows:
        report = EvaluationReport.model_validate_json(
            (folder / "all" / str(row["run"]) / "evaluation.json").read_text()
        )
        assert row["rate_nats"] == report.metrics["kl_nats"].value
        assert row["psnr"] == report.metrics["psnr"].value
        assert (folder / "all" / str(row["run"]) / "model" / "config.json").is_file()
    assert (folder / "all" / "sweep.png").is_file()
    return rows


def test_a_signal_stops_it_the_same_command_goes_on_and_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    process = fork(SWEEP, words(tmp_path, "--train.steps", "100000"), environment())
    log = folder / "loss.beta=0.1" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: saved after step" in out
    assert [path.name for path in folder.iterdir()] == ["loss.beta=0.1"]

    steps = len(log.read_text().splitlines())
    argv = words(tmp_path, "--train.steps", str(steps + 8))
    finished = alone(argv, SWEEP)
    rows = checked(tmp_path, finished)
    assert f"going on after step {steps}" in finished.stdout
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, steps + 9))
    assert [row["loss.beta"] for row in rows] == [0.1, 1000.0]
    assert rows[0]["rate_nats"] > 2 * rows[1]["rate_nats"]

    before = [(log.stat().st_mtime_ns, log.read_bytes()) for log in sorted(folder.glob("*/metrics.jsonl"))]
    again = alone(argv, SWEEP)
    assert checked(tmp_path, again) == rows
    assert again.stdout.count("is finished; --name starts another run") == 2
    assert [(log.stat().st_mtime_ns, log.read_bytes()) for log in sorted(folder.glob("*/metrics.jsonl"))] == before


def test_a_run_that_fails_is_left_out_and_the_others_are_trained(tmp_path: Path) -> None:
    argv = words(tmp_path, "--train.steps", "3", "--vary", "train.mixed_precision=fp16,no")  # no CPU has fp16
    finished = alone(argv, SWEEP)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("error: not in the table, as they failed: ")
    rows = json.loads((tmp_path / "all" / "sweep.json").read_text())["runs"]
    assert [row["train.mixed_precision"] for row in rows] == ["no"]


def test_two_processes_train_each_run_together(tmp_path: Path) -> None:
    finished = together(words(tmp_path, "--train.steps", "2"), SWEEP)
    assert len(checked(tmp_path, finished)) == 2
    assert finished.stdout.count("2 processes on cpu") == 2
