"""Bounds on what Gradio keeps of visitors between their requests, for which Gradio 6.31 has no settings."""

import contextlib
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from latent_ae.app.gradio_internals import SessionTables, scope_of_call
from latent_ae.app.perimeter.access import CURRENT_VISITOR, VISITOR
from latent_ae.service.errors import Busy

KEEP_SECONDS = 600.0
"""Results are kept this long to be fetched, and the state of a closed page in case it is opened again."""
MAX_CLOSED = 400
"""Sessions kept without an open page. The oldest session of the visitor that has most of them is dropped first."""
MAX_CLOSED_STATES = 50
"""Sessions among those that keep the state of their page (about 0.3 MB each)."""
MAX_OPEN = 300
"""Open pages that keep their state."""
_MAX_UNREAD = 500
"""Unread messages of one session; a call has few."""
_MAX_UPLOADS = 256
"""Uploads whose progress can be asked for."""
_MAX_LOGINS = 10_000


@dataclass
class _Session:
    visitor: Hashable
    used: float
    """Time of its last request, on time.monotonic()."""
    pages: int = 0
    """Heartbeat connections of open pages."""


class Sessions:
    """Bounds Gradio's queue, its results, page states and logins. On the server's event loop only."""

    def __init__(self, tables: SessionTables, *, max_waiting: int) -> None:
        """At most `max_waiting` calls are in Gradio's queue at a time, half of them of one visitor."""
        self.tables = tables
        self._max_waiting = max_waiting
        self._sessions: dict[str, _Session] = {}
        tables.after_push(self._entered)

    def seen(self, session: str, visitor: Hashable) -> None:
        """Note a request of this session; if there are too many sessions, the oldest are dropped."""
        known = self._sessions.pop(session, None) or _Session(visitor, 0.0)
        known.used = time.monotonic()
        self._sessions[session] = known  # last, so that the oldest are first
        closed = [session for session, known in self._sessions.items() if not known.pages]
        self._forget_beyond(MAX_CLOSED, closed)
        self._forget_beyond(MAX_CLOSED_STATES, [session for session in closed if session in self.tables.states])

    @contextlib.contextmanager
    def page(self, session: str, visitor: Hashable) -> Iterator[None]:
        """Count an open page of this session while its connection lasts."""
        self.seen(session, visitor)
        known = self._sessions[session]
        known.pages += 1
        opened = [session for session, known in self._sessions.items() if known.pages and session in self.tables.states]
        self._forget_beyond(MAX_OPEN, opened)
        try:
            yield
        finally:
            known.pages -= 1
            known.used = time.monotonic()

    def forget_old(self) -> None:
        """Drop sessions that are no longer used. To be called every few seconds."""
        for session in (*self.tables.messages, *self.tables.states):
            if session not in self._sessions:
                self._sessions[session] = _Session(None, time.monotonic())
        before, busy = time.monotonic() - KEEP_SECONDS, self._busy()
        for session, known in list(self._sessions.items()):
            if known.used < before and not known.pages and session not in busy:
                self._drop(session)
        for table, most in (
            *((table, _MAX_UPLOADS) for table in self.tables.uploads),
            (self.tables.logins, _MAX_LOGINS),
        ):
            while len(table) > most:
                del table[next(iter(table))]

    def require_room(self, session: str | None, visitor: Hashable) -> None:
        """Raise Busy for a call of a visitor, or a session, for which too much waits."""
        if session is not None:
            self.seen(session, visitor)
        waiting = Counter(event.request.scope.get(VISITOR) for event in self.tables.events.values())
        if waiting[visitor] >= self._max_waiting - waiting.total():
            own = f"{waiting[visitor]} of them yours: " if waiting[visitor] else ""
            raise Busy(f"the server has {waiting.total()} calls to answer, {own}try again in a moment")
        unread = None if session is None else self.tables.messages.get(session)
        if unread is not None and unread.qsize() > _MAX_UNREAD:
            raise Busy("the results of your earlier calls wait to be fetched")

    def _entered(self, body: Any, request: Any) -> None:
        """Note the session of a call that entered Gradio's queue, and let visitors take turns there."""
        if body.session_hash is not None:
            self.seen(body.session_hash, request.scope.get(VISITOR))
        self.tables.reorder_queues(in_turns)

    def _busy(self) -> set[str]:
        """Sessions for which something waits or runs."""
        return {event.session_hash for event in self.tables.events.values()}

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
        self.tables.drop(session)


def in_turns(events: list[Any]) -> list[Any]:
    """Calls that wait, one of each visitor after the other, those of one visitor in their order."""
    before: Counter[Hashable] = Counter()
    turns = []
    for event in events:
        visitor = event.request.scope.get(VISITOR)
        turns.append(before[visitor])
        before[visitor] += 1
    return [event for _, event in sorted(zip(turns, events, strict=True), key=lambda pair: pair[0])]


def current_visitor() -> Hashable:
    """The visitor whose request this thread or task works for; None outside of requests."""
    scope = scope_of_call()  # Gradio runs queued functions in the context of the queue
    return CURRENT_VISITOR.get() if scope is None else scope.get(VISITOR)
