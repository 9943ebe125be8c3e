"""The queue of images that wait for a model, and the one thread that takes them from it in batches.

    run(jobs) --> [ waiting ] --jobs of one key, up to batch_pixels--> one call of the model --> results of each caller

Visitors, and the callers of one visitor, take turns, batch by batch. A caller gets DeadlineExceeded when its time is
up, and the model stops between two strips or tiles once no caller waits for the batch.
"""

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from latent_ae.allocator import release_free_memory
from latent_ae.service.errors import DeadlineExceeded, ShuttingDown

Tick = Callable[[float], None]
"""called with the share of the work that is done; what it raises ends the work"""

_LARGE_PIXELS = 512 * 512
"""of a batch after which the memory that it leaves free is worth giving back to the system"""
_POLL_SECONDS = 0.1
"""between two calls of a waiting caller's tick"""


@dataclass(frozen=True)
class Job:
    """Work of a model on one image."""

    key: Hashable
    """jobs of one key have the same `run` and can share a batch"""
    run: Callable[[Sequence[Any], Tick], Sequence[Any]]
    """payloads of a batch => their results, in order"""
    payload: Any
    pixels: int
    """counted against the limit of a batch"""
    seconds: float = 0.0
    """best-case duration, 0 where it is unknown"""


@dataclass(eq=False)
class _Caller:
    deadline: float
    turn: int
    """number of its arrival or of its last batch; the lowest has waited longest"""
    visitor: Hashable
    thread: int = field(default_factory=threading.get_ident)
    model_seconds: float = 0.0
    """duration of the batches that its jobs were in"""

    @property
    def owner(self) -> Hashable:
        """Who takes turns with others."""
        return id(self) if self.visitor is None else ("visitor", self.visitor)


@dataclass(eq=False)
class _Entry:
    job: Job
    caller: _Caller
    share: float = 0.0
    """of the job that is done"""
    future: Future[Any] = field(default_factory=Future)
    """cancelled when the caller leaves"""

    def wanted(self) -> bool:
        return not self.future.done() and time.monotonic() <= self.caller.deadline

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):  # the caller has left, or the queue was closed
            self.future.set_exception(error)


class _Abandoned(Exception):  # noqa: N818 - ends a batch, no caller sees it
    pass


class ModelQueue:
    """The queue and its thread. Every method may be called from any thread."""

    def __init__(self, batch_pixels: int) -> None:
        self.batches = 0
        self.batched = 0
        """jobs in all batches"""
        self._batch_pixels = batch_pixels
        self._waiting: list[_Entry] = []
        self._running: list[_Entry] = []
        self._closing = False
        self._turns = itertools.count()
        self._served: dict[Hashable, int] = {}
        """number of the last batch of each owner that waits"""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="latent-ae-model", daemon=True)
        self._thread.start()

    def run(
        self,
        jobs: Sequence[Job],
        *,
        deadline: float,
        tick: Tick | None = None,
        visitor: Hashable = None,
        took: Callable[[float], None] | None = None,
    ) -> list[Any]:
        """The results of one caller's jobs, in order, once all are done.

        `deadline` is a time.monotonic(). `tick` is called in the caller's thread while it waits, `took` at the end with
        the seconds that the model worked on the batches of these jobs, without the time that they waited.
        Raises what a job or the tick raised, DeadlineExceeded, or ShuttingDown.
        """
        with self._changed:
            if self._closing:
                raise ShuttingDown
            caller = _Caller(deadline, next(self._turns), visitor)
            entries = [_Entry(job, caller) for job in jobs]
            self._waiting += entries
            self._changed.notify_all()
        try:
            results = self._results(entries, deadline, tick)
            if took is not None:
                took(caller.model_seconds)
            return results
        finally:
            for entry in entries:
                entry.future.cancel()
            with self._changed:
                self._waiting = [entry for entry in self._waiting if entry.caller is not caller]

    def load(self) -> tuple[int, int]:
        """Number of jobs that wait, and of unfinished jobs in the batch that runs."""
        with self._changed:
            running = sum(entry.future.cancelled() or not entry.future.done() for entry in self._running)
            return len(self._waiting), running

    def others_ahead(self) -> int:
        """How many other callers the model serves before the calling thread's: 0 once it works on a job of that.

        For a tick, which `run` calls in the caller's thread.
        """
        own = threading.get_ident()
        with self._changed:
            running = {entry.caller for entry in self._running if not entry.future.done()}
            mine = [self._turn(entry) for entry in self._waiting if entry.caller.thread == own]
            if not mine or any(caller.thread == own for caller in running):
                return 0
            return len(running | {entry.caller for entry in self._waiting if self._turn(entry) < min(mine)})

    def close(self) -> None:
        """End all jobs with ShuttingDown, the running ones at their next tick. Returns when the thread has ended."""
        with self._changed:
            self._closing = True
            for entry in self._waiting + self._running:
                entry.fail(ShuttingDown())
            self._changed.notify_all()
        self._thread.join()

    @staticmethod
    def _results(entries: Sequence[_Entry], deadline: float, tick: Tick | None) -> list[Any]:
        futures = [entry.future for entry in entries]
        while True:
            if tick is not None:
                tick(sum(1.0 if entry.future.done() else entry.share for entry in entries) / len(entries))
            left = max(0.0, deadline - time.monotonic())
            timeout = left if tick is None else min(left, _POLL_SECONDS)
            done, pending = wait(futures, timeout, FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises the job's exception
            if not pending:
                return [future.result() for future in futures]
            if time.monotonic() >= deadline:
                raise DeadlineExceeded

    def _loop(self) -> None:
        while batch := self._next_batch():
            self._run(batch)
            large = sum(entry.job.pixels for entry in batch) >= _LARGE_PIXELS
            del batch  # its images would stay in memory until the next batch
            if large:
                release_free_memory()

    def _next_batch(self) -> list[_Entry]:
        """The next batch; empty when the queue closes."""
        with self._changed:
            self._running = []
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._closing:
                return []
            first = min(self._waiting, key=self._turn)
            batch, pixels = [first], first.job.pixels
            for entry in self._waiting:
                fits = entry.job.key == first.job.key and pixels + entry.job.pixels <= self._batch_pixels
                if fits and entry is not first:
                    batch.append(entry)
                    pixels += entry.job.pixels
            for entry in batch:
                entry.caller.turn = self._served[entry.caller.owner] = next(self._turns)
                self._waiting.remove(entry)
            owners = {entry.caller.owner for entry in self._waiting}
            self._served = {owner: turn for owner, turn in self._served.items() if owner in owners}
            self._running = batch
            return batch

    def _turn(self, entry: _Entry) -> tuple[int, int]:
        """Lowest for the visitor that has waited longest since its last batch, then for its caller that has."""
        return self._served.get(entry.caller.owner, entry.caller.turn), entry.caller.turn

    def _run(self, batch: Sequence[_Entry]) -> None:
        batch = [entry for entry in batch if entry.wanted()]
        if not batch:
            return
        self.batches += 1
        self.batched += len(batch)

        def tick(share: float) -> None:
            if not any(entry.wanted() for entry in batch):
                raise _Abandoned
            for entry in batch:
                entry.share = share

        start = time.perf_counter()
        try:
            results = batch[0].job.run([entry.job.payload for entry in batch], tick)
            for caller in {entry.caller for entry in batch}:
                caller.model_seconds += time.perf_counter() - start
            for entry, result in zip(batch, results, strict=True):
                with suppress(InvalidStateError):  # as in `fail`
                    entry.future.set_result(result)
        except _Abandoned:
            return
        except BaseException as error:  # it is the caller's, and the thread has to go on
            if len(batch) == 1:
                batch[0].fail(error)
                return
        else:
            return
        for entry in batch:  # one of them made the batch fail; the others get their results
            self._run([entry])
