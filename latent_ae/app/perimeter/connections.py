"""Bounds on the number of connections, and on the time that one may be open without being used.

uvicorn bounds neither their number nor the time for the head of a request or for reading a reply.
"""

import asyncio
import contextlib
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from latent_ae.app.perimeter.access import address
from latent_ae.service.admission import Slots

HEAD_SECONDS = 10.0
"""From a connection's start, or the end of a reply, to the end of the next request's head."""
READ_SECONDS = 30.0
"""Without a byte taken of a reply that waits to be read."""
_MAX_CONNECTIONS = 1024
_OTHER_DESCRIPTORS = 100
"""File descriptors of models, logs, libraries and the event loop."""


class Connections:
    """All open connections, at most half of them of one address. On the server's event loop only."""

    def __init__(self, count: int, *, is_proxy: Callable[[str], bool]) -> None:
        """A proxy has the connections of many visitors and may take all `count` places."""
        self._places = Slots(count)
        self._is_proxy = is_proxy
        self._open: dict[Connection, str | None] = {}
        """With their addresses, the oldest first."""

    def admit(self, connection: "Connection") -> bool:
        """Whether a new connection may stay; where places are short, at the cost of an idle one.

        The oldest idle connection of the address with most of them is closed, but never for an address that has more.
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
        """Release the place of a connection that ended or is about to."""
        if connection in self._open:
            self._places.release(self._open.pop(connection))


class Connection(H11Protocol):
    """A connection that bounds the time for a request's head and for reading a reply.

    It follows uvicorn's own handling of a connection, which has these methods and `cycle`, the request that it answers.
    """

    def __init__(self, *args: Any, connections: Connections, **named: Any) -> None:
        super().__init__(*args, **named)
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._unsent = 0

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def host(self) -> str:
        """Address of the other side."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close it at once if there is no place."""
        super().connection_made(transport)
        if self._connections.admit(self):
            self._watch()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the place."""
        self._connections.left(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """A reply waits to be read."""
        super().pause_writing()
        self._paused = True
        self._watch()

    def resume_writing(self) -> None:
        """The reply was read."""
        super().resume_writing()
        self._paused = False
        self._watch()

    def _watch(self) -> None:
        """Run a timer exactly while the other side is waited for."""
        waiting = self.idle or self._paused
        if not waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif waiting and self._timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            seconds = READ_SECONDS if self._unsent else HEAD_SECONDS
            self._timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        """Close when the time is over, unless a reply is being read."""
        self._timer = None
        before, left = self._unsent, self.transport.get_write_buffer_size()
        if left and left != before:
            self._watch()
        else:
            self.transport.abort()


def descriptors() -> int:
    """Raise the process's limit of file descriptors as far as needed and allowed; the connections that fit in it.

    Linux starts processes with 1024 descriptors and macOS with 256, both with a higher hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MAX_CONNECTIONS + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(16, min(_MAX_CONNECTIONS, (soft - _OTHER_DESCRIPTORS) // 2))  # an upload has a file, too
