"""Whose a request is, as far as a server can know: places, memory and connections are shared between visitors."""

import ipaddress
from collections.abc import Hashable
from contextvars import ContextVar

from gradio.context import LocalContext
from starlette.types import Scope

VISITOR = "latent_ae.visitor"
"""the key in a request's scope"""
_current: ContextVar[Hashable] = ContextVar("visitor", default=None)


def name_visitor(scope: Scope, user: str | None) -> Hashable:
    """Say in the scope, and in the context of this task, whose the request is: a user's, or else an address's."""
    client = scope.get("client")
    visitor: Hashable = address(client[0] if client else "") if user is None else ("user", user)
    scope[VISITOR] = visitor
    _current.set(visitor)
    return visitor


def current() -> Hashable:
    """Whose request this thread or task is at; None outside of requests."""
    # What Gradio's queue runs has the context of the queue, and the request beside it.
    request = LocalContext.request.get(None)
    scope = getattr(getattr(request, "request", None), "scope", None)
    return _current.get() if scope is None else scope.get(VISITOR)


def address(text: str) -> str:
    """An address as one visitor has it: of IPv6 the network of a household, for which it has billions."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
        found = found.ipv4_mapped
    return str(found)
