"""Bounds on the number, size and time of request bodies while they arrive."""

import asyncio
import contextlib
from collections.abc import Hashable, Iterator

from starlette.types import Message, Receive, Scope

from latent_ae.service.admission import Slots
from latent_ae.service.errors import BadRequest, Busy, ServiceError, TooLarge

GRACE_SECONDS = 20.0
MIN_RATE = 8_000
"""Bytes per second: a body is late if, after the grace seconds, it has arrived more slowly than this on average."""
MAX_ARRIVING = 256
"""Bodies that arrive at a time, half of them of one visitor; one more ends the latest one."""


class TooSlow(ServiceError):  # noqa: N818 - named as HTTP names it
    """A body did not arrive in time."""

    code, status = "too_slow", 408


class BrokenOff(BadRequest):
    """The sender of a body left; nobody reads the reply."""


class Bodies:
    """All bodies that arrive or are in memory. On the server's event loop only."""

    def __init__(self, max_bytes: int) -> None:
        """At most `max_bytes` are held at a time, half of them of one visitor."""
        self.received = 0
        """Bytes since the start."""
        self._bytes = Slots(max_bytes)
        self._places = Slots(MAX_ARRIVING)
        self._arriving: set[Body] = set()

    @contextlib.contextmanager
    def arriving(self, visitor: Hashable, receive: Receive, limit: int, scope: Scope) -> Iterator["Body"]:
        """The body of a request, counted until the request is answered. Raises TooLarge for a larger Content-Length."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        require_size(int(length) if length.isdigit() else 0, limit)
        while not self._places.acquire(visitor):
            self._end_one()
        body = Body(self, visitor, receive, limit)
        self._arriving.add(body)
        try:
            yield body
        finally:
            self.arrived(body)
            self._bytes.release(visitor, body.size)

    def hold(self, body: "Body", size: int) -> None:
        """Count bytes that arrived. Raises Busy if there is no room for them."""
        self.received += size
        if not self._bytes.acquire(body.visitor, size):
            raise Busy("the server has no room for this request's body now: try again in a moment")
        body.size += size

    def arrived(self, body: "Body") -> None:
        """The body is complete, or was ended."""
        if body in self._arriving:
            self._arriving.remove(body)
            self._places.release(body.visitor)

    def _end_one(self) -> None:
        """End the latest body of the visitor that has most."""
        most = max((body.visitor for body in self._arriving), key=self._places.held_by)
        last = min((body for body in self._arriving if body.visitor == most), key=lambda body: body.due)
        self.arrived(last)
        last.end()


class Body:
    """One body, to be read through `receive`."""

    def __init__(self, bodies: Bodies, visitor: Hashable, receive: Receive, limit: int) -> None:
        self.visitor = visitor
        self.size = 0
        """Bytes that arrived."""
        self._bodies = bodies
        self._receive = receive
        self._limit = limit
        self._start = asyncio.get_running_loop().time()
        self._waiting: asyncio.Timeout | None = None
        self._ended = self._whole = False
        self._again: list[Message] = []

    @property
    def due(self) -> float:
        """When it is late, on the clock of the event loop."""
        return self._start + GRACE_SECONDS + self.size / MIN_RATE

    def end(self) -> None:
        """Make the reader raise TooSlow: another body needs the place."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def receive(self) -> Message:
        """The next message. Raises TooSlow, TooLarge, Busy or BrokenOff."""
        if self._whole:
            return self._again.pop() if self._again else await self._receive()
        try:
            async with asyncio.timeout_at(self.due) as self._waiting:
                if self._ended:
                    raise TimeoutError
                message = await self._receive()
        except TimeoutError:
            raise TooSlow("the request's body did not arrive in time: send it faster, or fewer at a time") from None
        finally:
            self._waiting = None
        if message["type"] == "http.disconnect":
            raise BrokenOff("the request's body broke off")
        size = len(message.get("body", b""))
        require_size(self.size + size, self._limit)
        self._bodies.hold(self, size)
        if not message.get("more_body", False):
            self._whole = True
            self._bodies.arrived(self)
        return message

    async def read(self) -> bytes:
        """All of it, which `receive` then gives again in one message. Raises as `receive` does."""
        parts = []
        while not self._whole:
            parts.append((await self.receive()).get("body", b""))
        self._again = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]
        return b"".join(parts)


def require_size(size: int, limit: int) -> None:
    """Raise TooLarge for more bytes than `limit`."""
    if size > limit:
        raise TooLarge(f"the request has {size} bytes, {limit} are allowed")
