"""SIGTERM and Ctrl-C as a request to stop at the next step boundary."""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While active, the first signal is noted and the second ends the process at once.

    A launcher and the terminal may both deliver the same Ctrl-C, so further signals count only `grace_seconds` after
    the first.
    """

    def __init__(self, grace_seconds: float = 1.0) -> None:
        self.grace_seconds = grace_seconds
        self.signal: int | None = None
        self._received_at = 0.0
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # whatever signal.signal returned

    def __call__(self) -> bool:
        """Whether a signal was received by this process."""
        return self.signal is not None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._received_at = number, now
        elif now - self._received_at >= self.grace_seconds:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
