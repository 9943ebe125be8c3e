"""Bodies of requests while they come: no more of them, no larger and no slower than the server can bear."""

import asyncio
import contextlib
from collections.abc import Hashable, Iterator

from starlette.types import Message, Receive, Scope

from latent_ae.service.admission import Slots
from latent_ae.service.errors import BadRequest, Busy, ServiceError, TooLarge

GRACE_SECONDS = 20.0
LEAST_RATE = 8_000
"""bytes per second: after so many seconds of grace a body is behind if it has come more slowly than this on average"""
MOST_COMING = 256
"""bodies that come at a time, half of them of one visitor; the next one ends the one that is furthest behind"""


class TooSlow(ServiceError):  # noqa: N818 - named as HTTP names it
    """A body that did not come in time."""

    code = "too_slow"
    status = 408


class BrokenOff(BadRequest):
    """A body whose sender left; nobody reads the answer."""


class Bodies:
    """All bodies that are on their way or in memory; all of it on the server's event loop."""

    def __init__(self, most_bytes: int) -> None:
        """At most `most_bytes` are held together, and half of them for one visitor."""
        self.received = 0
        """bytes since the start"""
        self._bytes = Slots(most_bytes)
        self._places = Slots(MOST_COMING)
        self._coming: set[Body] = set()

    @contextlib.contextmanager
    def coming(self, visitor: Hashable, receive: Receive, limit: int, scope: Scope) -> Iterator["Body"]:
        """The body of a request, of at most `limit` bytes, which counts until the request is answered.

        Raises TooLarge at once for one that says it has more.
        """
        require_size(_declared(scope), limit)
        while not self._places.acquire(visitor):
            self._end_one()
        body = Body(self, visitor, receive, limit)
        self._coming.add(body)
        try:
            yield body
        finally:
            self.arrived(body)
            self._bytes.release(visitor, body.size)

    def hold(self, body: "Body", size: int) -> None:
        """Count bytes that have come. Raises Busy where there is no room for them."""
        self.received += size
        if not self._bytes.acquire(body.visitor, size):
            raise Busy("the server has no room for this request's body now: try again in a moment")
        body.size += size

    def arrived(self, body: "Body") -> None:
        """The body is here, or ended."""
        if body in self._coming:
            self._coming.remove(body)
            self._places.release(body.visitor)

    def _end_one(self) -> None:
        """End the body that is furthest behind of those of the visitor that has most."""
        most = max((body.visitor for body in self._coming), key=self._places.held_by)
        last = min((body for body in self._coming if body.visitor == most), key=lambda body: body.due)
        self.arrived(last)
        last.end()


class Body:
    """One body: read it through `receive`, which raises ServiceErrors for what is wrong with it."""

    def __init__(self, bodies: Bodies, visitor: Hashable, receive: Receive, limit: int) -> None:
        self.visitor = visitor
        self.size = 0
        """bytes that have come"""
        self.error: ServiceError | None = None
        """what ended it"""
        self._bodies = bodies
        self._receive = receive
        self._limit = limit
        self._start = asyncio.get_running_loop().time()
        self._waiting: asyncio.Timeout | None = None
        self._ended = self._whole = False

    @property
    def due(self) -> float:
        """When it is behind, on the clock of the event loop."""
        return self._start + GRACE_SECONDS + self.size / LEAST_RATE

    def end(self) -> None:
        """Another one needs the place."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def receive(self) -> Message:
        """The next message. Raises TooSlow, TooLarge, Busy or BrokenOff, which is in `error` then."""
        if self._whole:
            return await self._receive()
        try:
            return await self._next()
        except ServiceError as error:
            self.error = error
            raise

    async def read(self) -> bytes:
        """All of it. Raises as `receive` does."""
        parts = []
        while not self._whole:
            parts.append((await self.receive()).get("body", b""))
        return b"".join(parts)

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self.due) as self._waiting:
                if self._ended:
                    raise TimeoutError
                message = await self._receive()
        except TimeoutError:
            raise TooSlow("the request's body did not come in time: send it faster, or fewer at a time") from None
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


def require_size(size: int, limit: int) -> None:
    """Raises TooLarge."""
    if size > limit:
        raise TooLarge(f"the request has {size} bytes, {limit} are allowed")


def _declared(scope: Scope) -> int:
    """Bytes that the request says it has, 0 if it says nothing."""
    given = dict(scope["headers"]).get(b"content-length", b"0")
    return int(given) if given.isdigit() else 0
