"""What Gradio keeps of visitors between their requests, bounded: it waits for those who never come back, too.

Gradio 6.31 has no setting for any of this. What is private of it is named in `Sessions.__init__`, so that a version
without one of these names fails at the start.
"""

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
import gradio.routes
from gradio.routes import App
from starlette.requests import Request

from latent_ae.app.perimeter.visitors import VISITOR
from latent_ae.service.errors import Busy

KEEP_SECONDS = 600.0
"""that results wait to be fetched, and that a closed page's state waits for it to come back"""
MOST_KEPT = 400
"""sessions without an open page; who has most of them loses the oldest first"""
MOST_STATES = 50
"""those of them that keep the state of a page, a third of a megabyte"""
MOST_OPEN = 300
"""open pages that keep their state"""
_UNREAD = 500
"""messages of one session that nobody has read; a call has a handful"""
_UPLOADS = 256
"""uploads whose progress can be asked for"""
_LOGINS = 10_000


@dataclass
class _Session:
    visitor: Hashable
    used: float
    """when it was last asked for something, on time.monotonic()"""
    pages: int = 0
    """connections by which open pages say that they live"""


class Sessions:
    """Bounds Gradio's queue, its results, its pages' states, its logins; all of it on the server's event loop."""

    def __init__(self, demo: gr.Blocks, app: App, *, most_waiting: int) -> None:
        """`most_waiting` calls are in Gradio's queue at a time, half of them of one visitor."""
        queue = demo._queue
        self._push = queue.push
        """every call comes by it: from pages, from programs and from tools"""
        queue.push = self._admit
        self._messages: dict[str, Any] = queue.pending_messages_per_session
        """what was not fetched yet, by session"""
        self._event_ids: dict[str, set[str]] = queue.pending_event_ids_session
        self._events: dict[str, Any] = queue.event_ids_to_events
        """calls that wait or run"""
        self._lines: dict[str, Any] = queue.event_queue_per_concurrency_id
        self._states: OrderedDict[str, Any] = app.state_holder.session_data
        self._state_times: dict[str, Any] = app.state_holder.time_last_used
        self._logins: dict[str, str] = app.tokens
        self._cookies = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        progress = gradio.routes.file_upload_statuses
        self._uploads: tuple[dict[str, Any], dict[str, Any]] = progress._statuses, progress._signals
        self._most_waiting = most_waiting
        self._sessions: dict[str, _Session] = {}

    def user(self, cookies: Mapping[str, str]) -> str | None:
        """The name of a visitor who is logged in."""
        return next((self._logins[cookies[name]] for name in self._cookies if cookies.get(name) in self._logins), None)

    def seen(self, session: str, visitor: Hashable) -> None:
        """A request of this session has come; the oldest ones of others go if there are too many."""
        known = self._sessions.pop(session, None) or _Session(visitor, 0.0)
        known.used = time.monotonic()
        self._sessions[session] = known  # last, so that the oldest are first
        closed = [session for session, known in self._sessions.items() if not known.pages]
        self._forget_beyond(MOST_KEPT, closed)
        self._forget_beyond(MOST_STATES, [session for session in closed if session in self._states])

    @contextlib.contextmanager
    def page(self, session: str, visitor: Hashable) -> Iterator[None]:
        """An open page of this session, as long as its connection lasts."""
        self.seen(session, visitor)
        known = self._sessions[session]
        known.pages += 1
        opened = [session for session, known in self._sessions.items() if known.pages and session in self._states]
        self._forget_beyond(MOST_OPEN, opened)
        try:
            yield
        finally:
            known.pages -= 1
            known.used = time.monotonic()

    def forget_old(self) -> None:
        """Drop what nobody has come back for. To be called every few seconds."""
        for session in (*self._messages, *self._states):
            if session not in self._sessions:
                self._sessions[session] = _Session(None, time.monotonic())
        before, busy = time.monotonic() - KEEP_SECONDS, self._busy()
        for session, known in list(self._sessions.items()):
            if known.used < before and not known.pages and session not in busy:
                self._drop(session)
        for table, most in (*((table, _UPLOADS) for table in self._uploads), (self._logins, _LOGINS)):
            while len(table) > most:
                del table[next(iter(table))]

    def require_room(self, session: str | None, visitor: Hashable) -> None:
        """Raise Busy for a call of a visitor, or a session, for which too much waits."""
        if session is not None:
            self.seen(session, visitor)
        waiting = Counter(event.request.scope.get(VISITOR) for event in self._events.values())
        if waiting[visitor] >= self._most_waiting - waiting.total():
            own = f"{waiting[visitor]} of them yours: " if waiting[visitor] else ""
            raise Busy(f"the server has {waiting.total()} calls to answer, {own}try again in a moment")
        unread = None if session is None else self._messages.get(session)
        if unread is not None and unread.qsize() > _UNREAD:
            raise Busy("the results of your earlier calls wait to be fetched")

    async def _admit(self, body: Any, request: Request, username: str | None) -> Any:
        """Gradio's `Queue.push`; afterwards visitors take turns in the queue, and the session is known."""
        admitted = await self._push(body, request, username)
        if body.session_hash is not None:
            self.seen(body.session_hash, request.scope.get(VISITOR))
        for line in self._lines.values():
            line.queue[:] = _in_turns(line.queue)
        return admitted

    def _busy(self) -> set[str]:
        """Sessions for which something waits or runs."""
        return {event.session_hash for event in self._events.values()}

    def _forget_beyond(self, most: int, found: list[str]) -> None:
        """Drop the oldest of these sessions, of whoever has most of them, while there are more than `most`."""
        surplus = len(found) - most
        if surplus <= 0:
            return
        busy = self._busy()
        found = [session for session in found if session not in busy]
        owners = Counter(self._sessions[session].visitor for session in found)
        for _ in range(min(surplus, len(found))):
            visitor = owners.most_common(1)[0][0]
            oldest = next(session for session in found if self._sessions[session].visitor == visitor)
            found.remove(oldest)
            owners[visitor] -= 1
            self._drop(oldest)

    def _drop(self, session: str) -> None:
        known = self._sessions[session]
        if not known.pages:
            del self._sessions[session]
        for table in (self._messages, self._event_ids, self._states, self._state_times):
            table.pop(session, None)


def _in_turns(events: list[Any]) -> list[Any]:
    """Calls that wait, one of each visitor after the other, those of one visitor in their order."""
    before: Counter[Hashable] = Counter()
    turns = []
    for event in events:
        visitor = event.request.scope.get(VISITOR)
        turns.append(before[visitor])
        before[visitor] += 1
    return [event for _, event in sorted(zip(turns, events, strict=True), key=lambda pair: pair[0])]
