"""Connections: no more than the process has descriptors for, and none that is held open without being used.

uvicorn bounds neither their number nor the time that the head of a request, or the reader of an answer, may take.
"""

import asyncio
import contextlib
import resource
from collections.abc import Callable
from typing import Any

from latent_ae.app.gradio_internals import HTTPProtocol
from latent_ae.app.perimeter.access import address
from latent_ae.service.admission import Slots

HEAD_SECONDS = 10.0
"""from a connection's start, or the end of an answer, to the end of the next request's head"""
READ_SECONDS = 30.0
"""without a byte taken of an answer that waits to be read"""
_MOST = 1024
_OTHER_DESCRIPTORS = 100
"""of models, logs, libraries and the event loop"""


class Connections:
    """All that are open, at most half of them of one address; all of it on the server's event loop."""

    def __init__(self, most: int, *, is_proxy: Callable[[str], bool]) -> None:
        """Connections of a proxy are those of many visitors, and may be as many as there are places."""
        self._places = Slots(most)
        self._is_proxy = is_proxy
        self._open: dict[Connection, str | None] = {}
        """with their addresses, oldest first"""

    def admit(self, connection: "Connection") -> bool:
        """Whether it may stay. Where places are short, the oldest that waits for a request goes, of who has most.

        Nobody loses one to an address that has more.
        """
        owner = None if self._is_proxy(connection.host) else address(connection.host)
        while not self._places.acquire(owner):
            own = self._places.held_by(owner)
            idle = [
                other
                for other, theirs in self._open.items()
                if other.idle and (theirs == owner or self._places.held_by(theirs) > own)
            ]
            if not idle:
                return False
            most = max((self._open[other] for other in idle), key=self._places.held_by)
            oldest = next(other for other in idle if self._open[other] == most)
            self.left(oldest)
            oldest.transport.abort()
        self._open[connection] = owner
        return True

    def left(self, connection: "Connection") -> None:
        """It has ended, or is about to."""
        if connection in self._open:
            self._places.release(self._open.pop(connection))


class Connection(HTTPProtocol):
    """A connection that bounds the time for a request's head, and for reading an answer."""

    def __init__(self, *args: Any, connections: Connections, **named: Any) -> None:
        super().__init__(*args, **named)
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Stay if there is a place."""
        super().connection_made(transport)
        if self._connections.admit(self):
            self._watch()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._connections.left(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        super().data_received(data)
        self._watch()

    def response_complete(self) -> None:
        """The next request may come."""
        self._watch()

    def pause_writing(self) -> None:
        """An answer waits to be read."""
        super().pause_writing()
        self._paused = True
        self._watch()

    def resume_writing(self) -> None:
        """It was read."""
        super().resume_writing()
        self._paused = False
        self._watch()

    def _watch(self) -> None:
        """Have a timer exactly while the other side is waited for."""
        waiting = self.idle or self._paused
        if not waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif waiting and self._timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            seconds = READ_SECONDS if self._unsent else HEAD_SECONDS
            self._timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        """The time is over: close, unless an answer is being read."""
        self._timer = None
        before, left = self._unsent, self.transport.get_write_buffer_size()
        if left and left != before:
            self._watch()
        else:
            self.transport.abort()


def descriptors() -> int:
    """Let the process have as many descriptors as the machine allows it, within reason: how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # An upload has a file beside its connection.
    return max(16, min(_MOST, (soft - _OTHER_DESCRIPTORS) // 2)) if soft != resource.RLIM_INFINITY else _MOST
