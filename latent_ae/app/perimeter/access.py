"""Which requests belong to this server, by host name and by origin of the page; and who a visitor is.

Browsers let any web site send requests here, with the visitor's cookie and from behind the visitor's firewall. They
name the site (`Origin`, `Sec-Fetch-*`) and the host that they looked up (`Host`); programs name only the host.
"""

import ipaddress
import re
from collections.abc import Hashable, Iterable
from contextvars import ContextVar
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope

from latent_ae.errors import UserError
from latent_ae.service.errors import ServiceError

VISITOR = "latent_ae.visitor"
"""Key in a request's scope; slots, memory and connections are shared between visitors."""
CURRENT_VISITOR: ContextVar[Hashable] = ContextVar("visitor", default=None)
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_HEADERS = {"X-Frame-Options": "SAMEORIGIN", "Cross-Origin-Resource-Policy": "same-origin"}
"""On every reply: other sites cannot frame or embed it, in browsers without Sec-Fetch either."""


class ForeignRequest(ServiceError):  # noqa: N818 - named as HTTP names it
    """A request from a page of another site, or for a host name that is not this server's."""

    code = "forbidden"
    status = 403


class Origins:
    """The names of this server, and whether a request belongs to it."""

    def __init__(self, *, host: str = "127.0.0.1", names: Iterable[str] = (), root_path: str = "") -> None:
        """`host` is the address to listen on, `names` are other names, `root_path` is the path or URL of a proxy.

        Raises UserError for a malformed name or URL.
        """
        given = [host_name(name) for name in names]
        self._https = False
        if root_path and not root_path.startswith("/"):
            url = _split(root_path)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise UserError(
                    f"--root-path {root_path}: expected a path like /vae, or a URL like https://example.com/vae"
                )
            self._https = url.scheme == "https"
            given.append(url.hostname)
        self._own = frozenset(given)
        """Names whose pages are this server's, whatever `Host` the proxy sends."""
        self._known = self._own | {"localhost", host.strip("[]").lower()}

    def check(self, scope: Scope, path: str) -> None:
        """Raise ForeignRequest unless a request to `path`, without its leading slash, belongs to this server."""
        headers = Headers(scope=scope)
        for name in ("host", "x-forwarded-host"):
            for value in headers.getlist(name):
                self._check_host(value)
        for origin in headers.getlist("origin"):
            self._check_origin(origin, headers.get("host", ""), https=self._secure(scope, headers))
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and "origin" not in headers and not _followed_link(scope, headers, path):
            raise ForeignRequest("pages of other sites may not use this server")

    def own_headers(self, message: Message, scope: Scope) -> None:
        """Remove the headers by which other sites could read a reply, and keep its cookies from their requests."""
        headers = MutableHeaders(scope=message)
        for name in [name for name in headers if name.startswith("access-control-")]:
            del headers[name]
        if cookies := headers.getlist("set-cookie"):
            del headers["set-cookie"]
            secure = self._secure(scope, Headers(scope=scope))
            for cookie in cookies:
                headers.append("set-cookie", _own_cookie(cookie, secure=secure))
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)

    def _check_host(self, value: str) -> None:
        host = _hostname(value.partition(",")[0].strip())
        if not host or not (host in self._known or _literal(host)):
            raise ForeignRequest(f"this server is not known as {host[:80]!r}: start it with --allow-host and this name")

    def _check_origin(self, origin: str, host: str, *, https: bool) -> None:
        url = _split(origin)
        own = url.netloc.lower() == host.lower() or (url.hostname or "") in self._own
        if not (own and url.netloc and url.scheme in (("https",) if https else ("http", "https"))):
            raise ForeignRequest("pages of other sites may not use this server")

    def _secure(self, scope: Scope, headers: Headers) -> bool:
        """Whether the visitor uses TLS, as far as is known; a false claim only makes the checks stricter."""
        forwarded = headers.get("x-forwarded-proto", "").partition(",")[0].strip()
        return self._https or scope.get("scheme") == "https" or forwarded == "https"


def host_name(text: str) -> str:
    """A host name or address without a port, as --allow-host takes it. Raises UserError."""
    name = text.lower().rstrip(".")
    if not _NAME.fullmatch(name) and not _literal(name.strip("[]")):
        raise UserError(f"--allow-host {text}: expected a name without scheme and port, like vae.example.com")
    return name.strip("[]")


def _followed_link(scope: Scope, headers: Headers, path: str) -> bool:
    """Whether a visitor followed a link on another site to the page."""
    how = (scope["method"], headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return path == "" and how == ("GET", "navigate", "document")


def _own_cookie(cookie: str, *, secure: bool) -> str:
    """The cookie, sent back only by this server's own pages and by links to them."""
    parts = [part.strip() for part in cookie.split(";")]
    kept = [part for part in parts if not part.lower().startswith("samesite") and part]
    if secure and "secure" not in [part.lower() for part in kept]:
        kept.append("Secure")
    return "; ".join([*kept, "SameSite=Lax"])


def _hostname(netloc: str) -> str:
    """The name in NAME[:PORT], in lower case; empty if malformed."""
    return (_split(f"//{netloc}").hostname or "").rstrip(".") if "@" not in netloc else ""


def _split(url: str) -> SplitResult:
    """The parts of a URL; empty if malformed."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a malformed one
    except ValueError:
        return urlsplit("")
    return parts


def _literal(host: str) -> bool:
    """Whether this is an IP address, which needs no name server that could be made to lie."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def name_visitor(scope: Scope, user: str | None) -> Hashable:
    """Identify a request's visitor by account, else by address, in its scope and in the context of this task."""
    client = scope.get("client")
    visitor: Hashable = address(client[0] if client else "") if user is None else ("user", user)
    scope[VISITOR] = visitor
    CURRENT_VISITOR.set(visitor)
    return visitor


def address(text: str) -> str:
    """The address of one visitor: of IPv6 the /64 network of a household, which has billions of addresses."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
        found = found.ipv4_mapped
    return str(found)
