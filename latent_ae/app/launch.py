"""The server: Gradio and the app's plain routes in one process, with everything off that nothing here needs."""

import contextlib
import functools
import importlib.util
import ipaddress
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from latent_ae.app import cleanup, gradio_internals, log, temporary, theme
from latent_ae.app.api.routes import plain_routes
from latent_ae.app.perimeter.access import Accounts, Origins
from latent_ae.app.perimeter.bodies import Bodies
from latent_ae.app.perimeter.connections import Connection, Connections, descriptors
from latent_ae.app.perimeter.content import Calls, Files
from latent_ae.app.perimeter.error_replies import ErrorReplies, Replies
from latent_ae.app.perimeter.guard import Guard, Traffic, tool_bytes, upload_limit
from latent_ae.app.perimeter.sessions import MAX_CLOSED, MAX_OPEN, Sessions, current_visitor
from latent_ae.errors import UserError
from latent_ae.service import Service

_CLOSE_SECONDS = 3.0
"""Time for answers that are on their way when the server ends."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Running:
    """A server that answers."""

    def __init__(self, demo: gr.Blocks, service: Service, traffic: Traffic, url: str) -> None:
        self.url = url
        self.demo = demo
        self._service = service
        self._traffic = traffic

    def close(self) -> None:
        """Refuse what comes, tell those who wait, and end the server. A second call does nothing."""
        if self._traffic.closing:
            return
        self._traffic.closing = True
        self._service.close()
        end = time.monotonic() + _CLOSE_SECONDS
        while self._traffic.requests and time.monotonic() < end:
            time.sleep(0.02)
        self.demo.close(verbose=False)


def launch(
    demo: gr.Blocks,
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: Accounts | None = None,
    root_path: str | None = None,
    allow_hosts: Sequence[str] = (),
    trusted_proxies: Sequence[str] = (),
    mcp: bool = False,
    keep_seconds: float = 3600.0,
    stored_bytes: int = 2 * 10**9,
) -> Running:
    """Start to answer on http://host:port and return.

    The demo has to be made after `gradio_settings.settle`: where its files lie is decided then.

    Args:
        demo: the page.
        service: what answers; `Running.close` closes it.
        host: an address of this machine.
        port: 0 for one that is free.
        auth: who may use the server; everybody if None.
        root_path: under which a proxy shows the server, as in /vae or https://example.com/vae.
        allow_hosts: names by which the server is reached, besides localhost, addresses, `host` and that of `root_path`.
        trusted_proxies: addresses or networks of proxies, which say by X-Forwarded-For whose request they pass on.
        mcp: offer the endpoints to language models' tools too.
        keep_seconds: that uploads and results stay: longer than a request takes and a page is looked at.
        stored_bytes: of uploads and results, above which nothing is taken that adds to them.

    Raises UserError if the port, or what `mcp` needs, cannot be had, for `mcp` with `auth`, and for a name, address or
    root path that cannot be.
    """
    if mcp:
        require_tools(accounts=auth is not None)
    origins = Origins(host=host, names=allow_hosts, root_path=root_path or "")
    proxies = [_network(address) for address in trusted_proxies]
    folder = gradio_internals.upload_folder()
    gradio_internals.use_folder(demo, folder)
    if folder.stat().st_mode & 0o077:
        raise ValueError(f"others than its owner can read the upload folder {folder}: chmod 700 {folder}")
    if mcp:
        gradio_internals.serve_tools(folder, tool_bytes(service.limits.upload_bytes))
    port = _free_port(host, port)
    traffic, replies = Traffic(), Replies()
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(map(str, proxies))  # where uvicorn looks for them
    service.identify_visitors(current_visitor)
    lifespan = _lifespan(
        demo,
        service,
        traffic,
        replies,
        origins,
        auth=auth,
        mcp=mcp,
        proxied=bool(proxies),
        keep_seconds=keep_seconds,
        stored_bytes=stored_bytes,
    )
    _, url, _ = demo.launch(
        server_name=host,
        server_port=port,
        root_path=root_path or "",
        auth=None if auth is None else auth.allows,
        app_kwargs={
            "routes": plain_routes(service, traffic, replies, auth),
            "lifespan": lifespan,
            "openapi_url": None,  # FastAPI's list of all of Gradio's inner routes
        },
        # A request that waits in the service holds a thread; those beyond its queue need one to be refused in.
        max_threads=2 * service.limits.queue + 40,
        max_file_size=service.limits.upload_bytes,
        state_session_capacity=MAX_OPEN + MAX_CLOSED,
        prevent_thread_lock=True,
        theme=theme.THEME,
        css=theme.CSS,
        footer_links=["api", "settings"],
        mcp_server=mcp,
        **_OFF,
    )
    if mcp and (error := gradio_internals.tool_error(demo)):
        demo.close(verbose=False)
        raise UserError(f"--mcp: tools cannot be offered ({error}); pip install -e '.[mcp]'")
    connections = Connections(descriptors(), is_proxy=functools.partial(_contains, proxies))
    # Open pages would otherwise delay the server's end. The connection's bounds hold from the second one on.
    gradio_internals.set_server(demo, functools.partial(Connection, connections=connections), shutdown_seconds=3)
    log.set_server_logs()
    return Running(demo, service, traffic, url)


_OFF: dict[str, Any] = {
    "allowed_paths": [],
    "enable_monitoring": False,
    "inbrowser": False,
    "num_workers": 0,
    "pwa": False,
    "quiet": True,
    "run_history": False,
    "share": False,
    "show_error": False,
    "ssr_mode": False,
    "strict_cors": True,
}


def require_tools(*, accounts: bool) -> None:
    """Raise UserError if --mcp cannot be served: its package is missing, or a password is required."""
    if importlib.util.find_spec("mcp") is None:
        raise UserError("--mcp needs a package that is not installed: pip install -e '.[mcp]'")
    if accounts:  # Gradio asks for none at these routes, and calls its own endpoints without any
        raise UserError("--mcp with --auth-file: tools are not asked for a password; leave one of the two out")


def _free_port(host: str, port: int) -> int:
    """The port, or one that is free for 0. Raises UserError at once where Gradio would try for seconds."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}; see --host and --port") from None
        return int(probe.getsockname()[1])


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise UserError(
            f"--trusted-proxy {text}: expected an address or a network, as 10.0.0.1 or 10.0.0.0/8"
        ) from None


def _contains(networks: Sequence[Network], host: str) -> bool:
    try:
        return any(ipaddress.ip_address(host) in network for network in networks)
    except ValueError:
        return False


def _lifespan(
    demo: gr.Blocks,
    service: Service,
    traffic: Traffic,
    replies: Replies,
    origins: Origins,
    *,
    auth: Accounts | None,
    mcp: bool,
    proxied: bool,
    keep_seconds: float,
    stored_bytes: int,
) -> Callable[[gradio_internals.App], contextlib.AbstractAsyncContextManager[None]]:
    """What stands in front of the app from before the port opens, and what goes on beside it."""
    folder, limits, calls = gradio_internals.upload_folder(), service.limits, Calls(demo, replies)
    sweep = functools.partial(
        temporary.sweep, folder, seconds=keep_seconds, most=stored_bytes, spared_seconds=2 * limits.deadline_seconds
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: gradio_internals.App) -> AsyncIterator[None]:
        tables = gradio_internals.SessionTables(demo, app)
        sessions = Sessions(tables, max_waiting=4 * limits.queue)
        bodies = Bodies(max(limits.queue * limits.upload_bytes, 2 * upload_limit(limits.upload_bytes)))

        def user(request: HTTPConnection) -> str | None:
            found = tables.user(request.cookies)
            return auth.named(request.headers.get("authorization")) if found is None and auth is not None else found

        def guarded(app: ASGIApp) -> ASGIApp:
            return Guard(
                ErrorReplies(app, replies=replies),
                origins=origins,
                calls=calls,
                replies=replies,
                user=user,
                bodies=bodies,
                files=Files(folder, upload_bytes=limits.upload_bytes),
                sessions=sessions,
                upload_bytes=limits.upload_bytes,
                stored_bytes=stored_bytes,
                traffic=traffic,
                mcp=mcp,
                proxied=proxied,
            )

        gradio_internals.put_in_front(app, guarded)
        async with (
            cleanup.sweeping(demo, sweep, traffic, stored_bytes=stored_bytes, keep_seconds=keep_seconds),
            cleanup.forgetting(sessions, bodies),
        ):
            yield

    return lifespan
