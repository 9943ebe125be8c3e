"""One request on its way from the door to its answer: deadline, progress, outcome."""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from latent_ae.service.errors import Busy, ServiceError, TooLarge
from latent_ae.service.shares import Shares
from latent_ae.service.stats import RequestCounter
from latent_ae.service.worker import Tick, Work, Worker, too_late

_HOPELESS = 1.5
"""as many times the time that is left must work take, by its best pace, to be refused: a pace is an estimate"""


class Request:
    """What every piece of a request's work goes through."""

    def __init__(
        self, *, seconds: float, tick: Tick | None, worker: Worker, desks: threading.Semaphore, visitor: Hashable = None
    ) -> None:
        self.ended_by_caller = False
        self._start = time.monotonic()
        self._limit = seconds
        self._deadline = self._start + seconds
        self._share = 0.0
        self._tick = tick
        self._worker = worker
        self._desks = desks
        self.visitor = visitor
        """whose it is; None for nobody's"""

    @property
    def seconds(self) -> float:
        """Since its arrival."""
        return time.monotonic() - self._start

    def check(self) -> None:
        """Called between pieces of work. Raises DeadlineExceeded, or what the caller's tick raises."""
        if time.monotonic() > self._deadline:
            raise too_late()
        self._tell(self._share)

    def model(self, works: Sequence[Work], *, until: float = 1.0) -> list[Any]:
        """The results of works at the model, which bring the request to the share `until`.

        Raises TooLarge at once if there is no hope of them before the deadline.
        """
        needed, left = sum(work.seconds for work in works), self._deadline - time.monotonic()
        if needed > _HOPELESS * left:
            raise TooLarge(
                f"this would take about {_duration(needed)} here, and a request may take {self._limit:g} seconds: "
                "try a smaller image"
            )
        start = self._share

        def tick(share: float) -> None:
            self._tell(min(until, start + (until - start) * share))

        tell = None if self._tick is None else tick
        results = self._worker.run(works, deadline=self._deadline, tick=tell, visitor=self.visitor)
        self._share = until
        return results

    @contextmanager
    def desk(self) -> Iterator[None]:
        """One of the few places for work outside of the model that takes memory and processor time."""
        self.check()
        if not self._desks.acquire(timeout=max(0.0, self._deadline - time.monotonic())):
            raise too_late()
        try:
            yield
        finally:
            self._desks.release()

    def _tell(self, share: float) -> None:
        if self._tick is not None:
            try:
                self._tick(share)
            except BaseException:
                self.ended_by_caller = True
                raise


class Door:
    """Lets a bounded number of requests in, at most half of them of one visitor, and counts them all."""

    def __init__(self, worker: Worker, *, most: int, seconds: float, desks: int) -> None:
        self.counter = RequestCounter()
        self.visitor: Callable[[], Hashable] = lambda: None
        """whose request this thread is at; None for nobody's, which may take all places"""
        self._worker = worker
        self._seconds = seconds
        self._desks = threading.Semaphore(desks)
        self._lock = threading.Lock()
        self._places = Shares(most)

    @property
    def inside(self) -> int:
        """Requests that were let in and are not answered."""
        return self._places.taken

    @contextmanager
    def request(self, endpoint: str, tick: Tick | None = None) -> Iterator[Request]:
        """A request from arrival to answer. Raises Busy at once where too many are inside, of all or of its visitor."""
        visitor = self.visitor()
        request = Request(seconds=self._seconds, tick=tick, worker=self._worker, desks=self._desks, visitor=visitor)
        outcome = "internal"
        try:
            with self._place(visitor):
                yield request
            outcome = "ok"
        except BaseException as error:
            if request.ended_by_caller:
                outcome = "cancelled"
            elif isinstance(error, ServiceError):
                outcome = error.code
            raise
        finally:
            self.counter.add(endpoint, outcome, request.seconds)

    @contextmanager
    def _place(self, visitor: Hashable) -> Iterator[None]:
        with self._lock:
            if not self._places.take(visitor):
                own = 0 if visitor is None else self._places.of(visitor)
                others = f"requests, {own} of them yours" if own else "other requests"
                raise Busy(f"the server is busy with {self._places.taken} {others}: try again in a moment")
        try:
            yield
        finally:
            with self._lock:
                self._places.give_back(visitor)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
