"""Admission of requests: slots shared fairly between visitors, deadlines, progress, and counts of outcomes.

An admitted request holds one of `ServiceLimits.queue` slots until its reply is made. Its own work (reading an upload,
measuring) waits for one of a few CPU slots, its jobs wait for the model in the queue.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from latent_ae.inference.timing import duration
from latent_ae.service.errors import Busy, DeadlineExceeded, ServiceError, TooLarge
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.queue import Job, ModelQueue, Tick

_HOPELESS_FACTOR = 1.5
"""Refuse work whose best-case duration exceeds the remaining time by this factor (estimates are rough)."""
_POLL_SECONDS = 0.1
"""between two ticks of a request that waits for a CPU slot"""


class Slots:
    """A number of slots, of which one visitor can hold at most as many as are left for all others.

    The first visitor gets half of them, the next a quarter, and so on: no visitor can shut the others out, and visitors
    need not be known in advance. Threads that share it need a lock.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._held: Counter[Hashable] = Counter()

    def acquire(self, visitor: Hashable, count: int = 1) -> bool:
        """Whether the visitor got `count` slots. None stands for no visitor and can get all that are left."""
        left = self.total - self.used
        if count > left or (visitor is not None and self._held[visitor] + count > left):
            return False
        self.used += count
        self._held[visitor] += count
        return True

    def release(self, visitor: Hashable, count: int = 1) -> None:
        """Return slots that were acquired."""
        self.used -= count
        self._held[visitor] -= count
        if not self._held[visitor]:
            del self._held[visitor]

    def held_by(self, visitor: Hashable) -> int:
        """Number of slots of a visitor."""
        return self._held[visitor]


@dataclass(frozen=True)
class ServiceStats:
    """Counts since the start, and the current load."""

    requests: Mapping[tuple[str, str], int]
    """by endpoint and outcome: ok, an error's code, cancelled or internal"""
    seconds: Mapping[str, float]
    """by endpoint: time from arrival to reply, summed over its requests"""
    inside: int
    """admitted requests without a reply"""
    queued: int
    """images that wait for a model"""
    running: int
    """images in the running batch"""
    batches: int
    batched: int
    """images in all batches"""


class Request:
    """An admitted request: its deadline, its progress, and what it waits for."""

    def __init__(self, admission: "Admission", visitor: Hashable, tick: Tick | None) -> None:
        self.cancelled = False
        """whether the caller's tick ended it"""
        self.model_seconds = 0.0
        """time that the model has worked for it"""
        self._admission = admission
        self._visitor = visitor
        self._tick = tick
        self._share = 0.0
        self._start = time.monotonic()
        self._deadline = self._start + admission.limits.deadline_seconds

    @property
    def seconds(self) -> float:
        """Time since its arrival."""
        return time.monotonic() - self._start

    def check(self) -> None:
        """Call it between pieces of work. Raises DeadlineExceeded, or what the caller's tick raises."""
        self.advance(self._share)

    def advance(self, share: float) -> None:
        """Report that this share of the request is done. Raises as `check` does."""
        if time.monotonic() > self._deadline:
            raise DeadlineExceeded
        self._share = share
        self._report(share)

    def run(self, jobs: Sequence[Job], *, until: float = 1.0) -> list[Any]:
        """The results of jobs, in order. When they are done, the share `until` of the request is done.

        Raises TooLarge at once for jobs that cannot be done before the deadline, and what `ModelQueue.run` raises.
        """
        needed, left = sum(job.seconds for job in jobs), self._deadline - time.monotonic()
        if needed > _HOPELESS_FACTOR * left:
            raise TooLarge(
                f"this would take about {duration(needed)} here, and a request may take "
                f"{self._admission.limits.deadline_seconds:g} seconds: try a smaller image"
            )
        start = self._share

        def tick(share: float) -> None:
            self._report(min(until, start + (until - start) * share))

        results = self._admission.queue.run(
            jobs,
            deadline=self._deadline,
            tick=None if self._tick is None else tick,
            visitor=self._visitor,
            took=self._took,
        )
        self._share = until
        return results

    @contextmanager
    def cpu_slot(self, *, search: bool = False) -> Iterator[None]:
        """Wait for one of the few slots for work outside of the models that takes memory and CPU time.

        With `search` for one of those that searches for baselines have to themselves: these take seconds, and nobody
        shall wait for them to have a picture read. Raises as `check` does.
        """
        self.check()
        slots = self._admission.search_slots if search else self._admission.cpu_slots
        while not slots.acquire(timeout=_POLL_SECONDS):
            self.check()
        try:
            yield
        finally:
            slots.release()

    def _took(self, seconds: float) -> None:
        self.model_seconds += seconds

    def _report(self, share: float) -> None:
        if self._tick is not None:
            try:
                self._tick(share)
            except BaseException:
                self.cancelled = True
                raise


class Admission:
    """Admits a bounded number of requests, at most half of them from one visitor, and counts them all."""

    def __init__(self, queue: ModelQueue, limits: ServiceLimits, *, cpu_slots: int) -> None:
        self.queue = queue
        self.limits = limits
        self.cpu_slots = threading.Semaphore(cpu_slots)
        self.search_slots = threading.Semaphore(cpu_slots)
        self.current_visitor: Callable[[], Hashable] = lambda: None
        """the visitor whose request the calling thread handles; None: no visitor, which can get all slots"""
        self._lock = threading.Lock()
        self._slots = Slots(limits.queue)
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def request(self, endpoint: str, tick: Tick | None = None) -> Iterator[Request]:
        """A request from arrival to reply. Raises Busy at once where all slots, or all of its visitor, are taken."""
        visitor = self.current_visitor()
        request, admitted, outcome = Request(self, visitor, tick), False, "internal"
        try:
            with self._lock:
                admitted = self._slots.acquire(visitor)
                own = 0 if visitor is None else self._slots.held_by(visitor)
            if not admitted:
                others = f"requests, {own} of them yours" if own else "other requests"
                raise Busy(f"the server is busy with {self._slots.used} {others}: try again in a moment")
            yield request
            outcome = "ok"
        except BaseException as error:
            if request.cancelled:
                outcome = "cancelled"
            elif isinstance(error, ServiceError):
                outcome = error.code
            raise
        finally:
            if admitted:
                with self._lock:
                    self._slots.release(visitor)
            self.count(endpoint, outcome, request.seconds)

    def count(self, endpoint: str, outcome: str, seconds: float) -> None:
        """Count a request that ended after so many seconds."""
        with self._lock:
            self._outcomes[endpoint, outcome] += 1
            self._seconds[endpoint] += seconds

    def stats(self) -> ServiceStats:
        """Counts since the start, and the current load."""
        queued, running = self.queue.load()
        with self._lock:
            return ServiceStats(
                requests=dict(self._outcomes),
                seconds=dict(self._seconds),
                inside=self._slots.used,
                queued=queued,
                running=running,
                batches=self.queue.batches,
                batched=self.queue.batched,
            )
