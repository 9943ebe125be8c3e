"""The loop around any training: what is saved and logged when, what stops it, and its exit statuses."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from latent_ae.errors import UserError
from latent_ae.training.best import BestWeights
from latent_ae.training.checkpoint.files import list_checkpoints, read_checkpoint
from latent_ae.training.checkpoint.state import ModelState
from latent_ae.training.engine import Training, run_program
from latent_ae.training.logging import Logbook
from latent_ae.training.settings import RunConfig
from latent_ae.training.signals import StopRequest
from latent_ae.training.update import NonFiniteError, UpdateResult


class Counting(Training[int]):
    """Each update adds 1 to a weight."""

    def __init__(self, folder: Path, **train: Any) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        given = {"steps": 6, "tracker": "none", "log_every_steps": 2, "checkpoint_every_steps": 4, **train}
        config = RunConfig.model_validate({"output_dir": str(folder), "name": "run", "train": given})
        config.run_dir.mkdir(parents=True, exist_ok=True)
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        super().__init__(config, Accelerator(cpu=True), StopRequest(), ModelState(network, optimizer, None))
        self.events: list[str] = []
        self.stop_at, self.fail_at, self.bad_at, self.enough_at = 0, 0, 0, 0

    def updates(self) -> Iterator[list[int]]:
        return ([step] for step in range(self.state.step, self.config.train.steps))

    def update(self, batches: list[int]) -> UpdateResult:
        step = self.state.step + 1
        if step == self.fail_at:
            raise NonFiniteError("the loss is not finite", ["a"])
        if step == self.stop_at:
            self.stop.signal = signal.SIGTERM
        self.state.network.weight.data += 1.0
        return UpdateResult(1.0 / step, {"term": 0.5}, {}, 2.0, updated=step != 2)

    def between(self, step: int, logbook: Logbook) -> bool:
        self.events.append(f"between {step}")
        if step == self.enough_at:
            self.state.best = BestWeights("psnr", patience=1)
            self.state.best.values = {2: 20.0, 4: 19.0}
        return True

    def finish(self, logbook: Logbook) -> None:
        self.events.append("finish")

    def problem(self) -> str | None:
        return "too many images are bad" if self.state.step == self.bad_at else None

    def place(self) -> dict[str, object]:
        return {"place": self.state.step}


def saved(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder / "run" / "checkpoints")]


def test_a_whole_run_logs_saves_and_finishes(tmp_path: Path) -> None:
    training = Counting(tmp_path)
    assert training.run() == 0
    assert training.events == [*(f"between {step}" for step in range(1, 6)), "finish"]
    assert saved(tmp_path) == ["step-00000004", "step-00000006"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["grad_norm"]) for line in lines] == [(2, None), (4, 2.0), (6, 2.0)]
    assert lines[1]["loss"] == 0.25
    assert lines[1]["term"] == 0.5


def test_a_signal_ends_it_after_the_update_with_a_checkpoint_that_goes_on(tmp_path: Path) -> None:
    training = Counting(tmp_path)
    training.stop_at = 3
    assert training.run() == 128 + signal.SIGTERM
    assert training.events == ["between 1", "between 2"]
    assert saved(tmp_path) == ["step-00000003"]
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000003")
    assert checkpoint.values["place"] == 3
    other = Counting(tmp_path)
    other.state.restore(checkpoint, other.accelerator)
    assert other.run() == 0
    assert other.state.network.weight.item() == 6.0
    # What is due after an update comes after its checkpoint, so it is still to be done.
    assert other.events == ["between 3", "between 4", "between 5", "finish"]


def test_enough_updates_end_it_with_a_checkpoint_and_the_result(tmp_path: Path) -> None:
    training = Counting(tmp_path)
    training.enough_at = 4
    assert training.run() == 0
    assert training.events == ["between 1", "between 2", "between 3", "between 4", "finish"]
    assert saved(tmp_path) == ["step-00000004"]
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert checkpoint.values["best"] == [[2, 20.0], [4, 19.0]], "written again with what became known"


def test_an_update_that_is_not_finite_ends_it_and_names_the_samples(tmp_path: Path) -> None:
    training = Counting(tmp_path)
    training.fail_at = 3
    with pytest.raises(NonFiniteError):
        training.run()
    assert json.loads((tmp_path / "run" / "nonfinite.json").read_text()) == {"step": 2, "sample_ids": ["a"]}
    assert saved(tmp_path) == []


def test_a_problem_ends_it(tmp_path: Path) -> None:
    training = Counting(tmp_path)
    training.bad_at = 2
    with pytest.raises(UserError, match="too many images are bad"):
        training.run()


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("a"), 2), (NonFiniteError("a", []), 1), (ArithmeticError("a"), 1), (OSError(28, "a", "b"), 1)],
)
def test_an_error_is_one_line_and_a_status(error: Exception, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise error

    assert run_program(work, ArithmeticError) == status
    assert capsys.readouterr().err in ("error: a\n", "error: a: b\n")
    assert run_program(lambda: 7) == 7


def test_an_error_that_nobody_expects_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 // 0)
