"""How fast a model works, so that what cannot be done in time is refused before it is begun."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """The fewest seconds a pixel that were ever seen: a busy machine does not make it refuse more.

    Args:
        seconds_per_pixel: that were measured before; None if nothing was.
    """

    def __init__(self, seconds_per_pixel: float | None) -> None:
        self._best = seconds_per_pixel

    def seconds(self, pixels: int) -> float:
        """That so many pixels take at best; 0 as long as nothing is known."""
        return 0.0 if self._best is None else self._best * pixels

    @contextmanager
    def timed(self, pixels: int) -> Iterator[None]:
        """Learn from work on so many pixels, if it is finished."""
        start = time.perf_counter()
        yield
        found = (time.perf_counter() - start) / pixels
        self._best = found if self._best is None else min(self._best, found)
