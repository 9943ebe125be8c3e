"""The engine of every training, of an autoencoder and of a prior: it starts, loops, stops and saves.

    run_program { started_processes { resume_or_finish -> Training.run { loop { update, log, checkpoint }, finish } } }

A program in train/ gives a subclass of `Training`, whose `update` makes one update from one global batch.
"""

import json
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from accelerate import Accelerator

from latent_ae.config import OptimizationConfig, RunSettings, Section, to_yaml
from latent_ae.errors import UserError, file_error
from latent_ae.io.atomic import write_atomically
from latent_ae.training.checkpoint.files import write_checkpoint
from latent_ae.training.checkpoint.resume import on_main
from latent_ae.training.checkpoint.state import ModelState
from latent_ae.training.distributed import gather_from_processes, start_accelerator, sum_over_processes
from latent_ae.training.logging import Logbook
from latent_ae.training.schedules import learning_rate_at
from latent_ae.training.signals import SIGNALS, StopRequest
from latent_ae.training.update import NonFiniteError, UpdateResult

B = TypeVar("B")


def run_program(work: Callable[[], int], *failures: type[Exception]) -> int:
    """The exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error, 1 for other failures.

    `failures` are further errors whose message is for the user.
    """
    expected: tuple[type[Exception], ...] = (UserError, NonFiniteError, *failures)
    try:
        return work()
    except expected as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # a program's own message
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        print(f"error: {file_error(error)}", file=sys.stderr)  # noqa: T201
        return 1


@contextmanager
def started_processes(train: OptimizationConfig) -> Iterator[tuple[Accelerator, StopRequest]]:
    """All the processes of a run, and what signals ask of them. Raises UserError."""
    accelerator = start_accelerator(mixed_precision=train.mixed_precision, accumulation=train.accumulation)
    try:
        with StopRequest() as stop:
            yield accelerator, stop
    finally:
        accelerator.end_training()


class Training(ABC, Generic[B]):
    """A run that trains, from its first update that is left to its result.

    Args:
        config: the settings.
        accelerator: of the process.
        stop: set by signals.
        state: what the updates change.
    """

    def __init__(
        self, config: RunSettings, accelerator: Accelerator, stop: StopRequest, state: ModelState[Any]
    ) -> None:
        self.config, self.accelerator, self.stop, self.state = config, accelerator, stop, state
        self._saved_step = -1

    @abstractmethod
    def updates(self) -> Iterator[list[B]]:
        """The micro-batches of this process for each update that is left."""

    @abstractmethod
    def update(self, batches: list[B]) -> UpdateResult:
        """One update from one global batch. Raises NonFiniteError on all processes."""

    @abstractmethod
    def between(self, step: int, logbook: Logbook) -> bool:
        """What is due after an update that is not the last: pictures, evaluations. False, on every process, if one
        was told to stop meanwhile.
        """

    @abstractmethod
    def finish(self, logbook: Logbook) -> None:
        """Write the result, with nothing written if a process is told to stop meanwhile."""

    def log_line(self, step: int, result: UpdateResult) -> dict[str, float | int | None]:
        """What metrics.jsonl says about a step: every term as it was summed."""
        return {
            "images_seen": step * self.config.train.batch_size,
            "loss": result.loss,
            **result.losses,
            **result.stats,
            "lr": learning_rate_at(step - 1, self.config.train),
            # null: the update was skipped (fp16 by its scaler, or by the guard)
            "grad_norm": result.grad_norm if result.updated else None,
        }

    def problem(self) -> str | None:
        """What this process has seen that has to end the run."""
        return None

    def place(self) -> dict[str, object]:
        """Where the data goes on, for a checkpoint; called on every process together."""
        return {}

    def run(self) -> int:
        """All updates that are left, then the result. Returns the exit status."""
        active = self.accelerator.is_main_process
        with Logbook(self.config, first_step=self.state.step, active=active) as logbook:
            number = self._loop(logbook)
            if not number:
                self.finish(logbook)
                number = self._stopping()
            if number:
                self.save()
                logbook.say(
                    f"{signal.Signals(number).name}: saved after step {self.state.step}; the same command goes on"
                )
                return 128 + number
        return 0

    def _loop(self, logbook: Logbook) -> int:
        """All updates that are left, with what is due after each. Returns the number of a signal to stop for, or 0."""
        every = self.config.train
        # A checkpoint is written before what is due after its update.
        if 0 < self.state.step < every.steps and self._ends_here(logbook):
            return self._stopping()
        for batches in logbook.timed(self.updates()):
            try:
                result = self.update(batches)
            except NonFiniteError as error:
                self._name_samples(error)
                raise
            self.state.step += 1
            step, last = self.state.step, self.state.step == every.steps
            logbook.advance(every.batch_size, loss=result.loss, psnr=result.stats.get("psnr"))
            if step % every.log_every_steps == 0 or last:
                logbook.log(step, self.log_line(step, result))
            number = self._stopping()
            if step % every.checkpoint_every_steps == 0 or last or number:
                self.save()
            if number:
                return number
            if not last and self._ends_here(logbook):
                return self._stopping()
        return 0

    def _ends_here(self, logbook: Logbook) -> bool:
        """Do what is due between two updates; whether that ends the loop, after a checkpoint that knows of it."""
        if self.between(self.state.step, logbook) and not self.state.over:
            return False
        self.save(again=True)
        return True

    def _name_samples(self, error: NonFiniteError) -> None:
        """Write down which samples were in an update that could not be made."""
        if not self.accelerator.is_main_process:
            return
        file, step = self.config.run_dir / "nonfinite.json", self.state.step
        write_atomically(file, json.dumps({"step": step, "sample_ids": error.sample_ids}, indent=1).encode())
        if error.sample_ids:
            print(f"step {step}: the ids of the samples are in {file}", file=sys.stderr)  # noqa: T201

    def _stopping(self) -> int:
        """The number of a signal that any process received, or 0. Raises UserError for a `problem` of any."""
        numbers = [float(self.stop.signal == number) for number in SIGNALS]
        problem = self.problem()
        *received, problems = sum_over_processes([*numbers, float(problem is not None)], self.accelerator)
        if problems:
            raise UserError(next(text for text in gather_from_processes(problem, self.accelerator) if text))
        return next((int(number) for number, count in zip(SIGNALS, received, strict=True) if count), 0)

    def save(self, *, again: bool = False) -> None:
        """Write a checkpoint of the present step, once, or `again` with what became known after it."""
        if self._saved_step == self.state.step and not again:
            return
        config, place = self.config, self.place()
        assert isinstance(config, Section)

        def write() -> None:
            now = self.state.checkpoint(self.accelerator, to_yaml(config), place)
            write_checkpoint(config.run_dir / "checkpoints", now, keep=config.train.keep_checkpoints, again=again)

        on_main(write, self.accelerator)
        self._saved_step = self.state.step
