"""One thread for all model work: whoever has waited longest, with all others that can be done in the same batch.

    callers --run(works)--> [ waiting ] --one key, up to batch_pixels--> one call of the model --> each caller its own

Visitors, and the callers of one visitor, take turns, batch by batch. A caller is told at once when its deadline passes,
and the model is stopped between two tiles where nobody waits for it any more.
"""

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from latent_ae.service.errors import DeadlineExceeded, ShuttingDown

Tick = Callable[[float], None]
"""called with the share that is done; what it raises ends the work"""

_POLL_SECONDS = 0.1
"""between two calls of a waiting caller's tick"""


@dataclass(frozen=True)
class Work:
    """One image's work at the model."""

    key: Hashable
    """works of one key have the same `run` and may be done together"""
    run: Callable[[Sequence[Any], Tick], Sequence[Any]]
    """payloads of a batch => their results, in their order"""
    payload: Any
    pixels: int
    """what it adds to a batch"""
    seconds: float = 0.0
    """that it takes at best, as far as is known"""


@dataclass(eq=False)
class _Caller:
    deadline: float
    turn: int
    """number of its arrival or of its last batch: the lowest has waited longest"""
    changed: threading.Event = field(default_factory=threading.Event)
    """something is done, or gone on"""
    waits: bool = True
    visitor: Hashable = None
    """whose it is; None: it takes turns by itself"""

    @property
    def owner(self) -> Hashable:
        """Who takes turns with others."""
        return id(self) if self.visitor is None else ("visitor", self.visitor)


@dataclass(eq=False)
class _Job:
    work: Work
    caller: _Caller
    share: float = 0.0
    done: bool = False
    result: Any = None
    error: BaseException | None = None

    def finish(self, result: Any = None, error: BaseException | None = None) -> None:
        if not self.done:
            self.result, self.error, self.done = result, error, True
            self.caller.changed.set()

    def wanted(self) -> bool:
        """Whether somebody still waits for it; one whose time is over is told so."""
        if not self.done and time.monotonic() > self.caller.deadline:
            self.finish(error=too_late())
        return self.caller.waits and not self.done


class _NobodyWaits(Exception):  # noqa: N818 - it ends a batch and is seen by nobody
    pass


class Worker:
    """The thread, and those who wait for it."""

    def __init__(self, batch_pixels: int) -> None:
        self.batches = 0
        self.batched = 0
        """works in all batches"""
        self._batch_pixels = batch_pixels
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._closing = False
        self._turns = itertools.count()
        self._served: dict[Hashable, int] = {}
        """number of the last batch of those who wait"""
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="latent-ae-model", daemon=True)
        self._thread.start()

    def run(
        self, works: Sequence[Work], *, deadline: float, tick: Tick | None = None, visitor: Hashable = None
    ) -> list[Any]:
        """The results of one caller's works, in their order, once all are there.

        `deadline` is on time.monotonic(). `tick` is called in the caller's thread while it waits, with the share of
        its works that is done; what it raises ends the works.

        Raises what a work raised, DeadlineExceeded, or ShuttingDown.
        """
        with self._arrived:
            if self._closing:
                raise _shutting_down()
            caller = _Caller(deadline, next(self._turns), visitor=visitor)
            jobs = [_Job(work, caller) for work in works]
            self._waiting += jobs
            self._arrived.notify_all()
        try:
            return self._results(jobs, caller, tick)
        finally:
            with self._arrived:
                caller.waits = False
                self._waiting = [job for job in self._waiting if job.caller is not caller]

    def counts(self) -> tuple[int, int]:
        """Works that wait, and works that the model is at."""
        with self._arrived:
            return len(self._waiting), sum(not job.done for job in self._running)

    def close(self) -> None:
        """Tell all callers, and end what runs between two tiles. Returns when the thread has ended."""
        with self._arrived:
            self._closing = True
            for job in self._waiting + self._running:
                job.caller.changed.set()
            self._arrived.notify_all()
        self._thread.join()

    def _results(self, jobs: Sequence[_Job], caller: _Caller, tick: Tick | None) -> list[Any]:
        while True:
            caller.changed.clear()
            for job in jobs:
                if job.error is not None:
                    raise job.error
            if all(job.done for job in jobs):
                return [job.result for job in jobs]
            if self._closing:
                raise _shutting_down()
            if tick is not None:
                tick(sum(1.0 if job.done else job.share for job in jobs) / len(jobs))
            left = caller.deadline - time.monotonic()
            if left <= 0:
                raise too_late()
            caller.changed.wait(left if tick is None else min(left, _POLL_SECONDS))

    def _loop(self) -> None:
        while batch := self._next_batch():
            self._run(batch)
            del batch  # its images would stay in memory until the next one comes

    def _next_batch(self) -> list[_Job]:
        """What is done next; empty when the worker closes."""
        with self._arrived:
            self._running = []
            while not self._waiting and not self._closing:
                self._arrived.wait()
            if self._closing:
                return []
            first = min(self._waiting, key=self._turn)
            batch, pixels = [first], first.work.pixels
            for job in self._waiting:
                fits = job.work.key == first.work.key and pixels + job.work.pixels <= self._batch_pixels
                if fits and job is not first:
                    batch.append(job)
                    pixels += job.work.pixels
            for job in batch:
                job.caller.turn = self._served[job.caller.owner] = next(self._turns)
                self._waiting.remove(job)
            waiting = {job.caller.owner for job in self._waiting}
            self._served = {owner: turn for owner, turn in self._served.items() if owner in waiting}
            self._running = batch
            return batch

    def _turn(self, job: _Job) -> tuple[int, int]:
        """The lowest is next: the visitor who has waited longest since its last batch, and of its callers likewise."""
        return self._served.get(job.caller.owner, job.caller.turn), job.caller.turn

    def _run(self, batch: list[_Job]) -> None:
        batch = [job for job in batch if job.wanted()]
        if not batch:
            return
        self.batches += 1
        self.batched += len(batch)
        try:
            results = batch[0].work.run([job.work.payload for job in batch], lambda share: self._tick(batch, share))
            for job, result in zip(batch, results, strict=True):
                job.finish(result)
        except _NobodyWaits:
            return
        except BaseException as error:  # it belongs to a caller, and the thread has to go on
            if len(batch) == 1 or self._closing:
                for job in batch:
                    job.finish(error=error)
                return
        else:
            return
        for job in batch:  # one of them is to blame, and the others shall have their answers
            self._run([job])

    def _tick(self, batch: Sequence[_Job], share: float) -> None:
        if self._closing:
            raise _shutting_down()
        if not sum(job.wanted() for job in batch):  # not any(): each is to be told when its time is over
            raise _NobodyWaits
        for job in batch:
            job.share = share
            job.caller.changed.set()


def too_late() -> DeadlineExceeded:
    """What a request is told whose time is over."""
    return DeadlineExceeded("the work was not finished in the time that a request may take: try a smaller image")


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down: try again later")
