"""The server: Gradio and the app's plain routes in one process, without the parts of Gradio that are not needed."""

import functools
import importlib.util
import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from latent_ae.app import gradio_internals, log, theme, viewer
from latent_ae.app.api.routes import plain_routes
from latent_ae.app.options import ServerOptions
from latent_ae.app.perimeter.connections import Connection, Connections, descriptors
from latent_ae.app.perimeter.guard import Guard, tool_bytes
from latent_ae.app.perimeter.sessions import MAX_CLOSED, MAX_OPEN, current_visitor
from latent_ae.errors import UserError
from latent_ae.service.service import Service

_CLOSE_SECONDS = 3.0
"""Time for replies under way when the server ends."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Running:
    """A running server."""

    def __init__(self, demo: gr.Blocks, service: Service, guard: Guard, url: str) -> None:
        self.url = url
        self.demo = demo
        self._service = service
        self._guard = guard

    def close(self) -> None:
        """Refuse new requests, end waiting ones with an error, and end the server. A second call does nothing."""
        if self._guard.closing:
            return
        self._guard.closing = True
        self._service.close()
        end = time.monotonic() + _CLOSE_SECONDS
        while self._guard.requests and time.monotonic() < end:
            time.sleep(0.02)
        self.demo.close(verbose=False)


def launch(demo: gr.Blocks, service: Service, options: ServerOptions) -> Running:
    """Start to answer and return; `Running.close` closes the service too.

    The demo must be built after `gradio_settings.set_environment`, which decides where its files lie. Raises UserError
    for a port or host that cannot be listened on, for options that are malformed, and if tools cannot be offered.
    """
    if options.mcp:
        require_tools(accounts=options.auth is not None)
    proxies = [_network(address) for address in options.trusted_proxy]
    folder = gradio_internals.upload_folder()
    gradio_internals.use_folder(demo, folder)
    if folder.stat().st_mode & 0o077:
        raise ValueError(f"others than its owner can read the upload folder {folder}: chmod 700 {folder}")
    if options.mcp:
        gradio_internals.serve_tools(folder, tool_bytes(service.limits.upload_bytes))
    port = _free_port(options.host, options.port)
    guard = Guard(demo, service.limits, options)
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(map(str, proxies))  # where uvicorn looks for them
    service.admission.current_visitor = current_visitor
    _, url, _ = demo.launch(
        server_name=options.host,
        server_port=port,
        root_path=options.root_path,
        auth=None if options.auth is None else options.auth.allows,
        app_kwargs={
            "routes": plain_routes(service, guard.replies, options.auth),
            "lifespan": guard.lifespan,
            "openapi_url": None,  # FastAPI's list of all of Gradio's inner routes
        },
        # A request that waits in the service holds a thread; those beyond its queue need one to be refused in.
        max_threads=2 * service.limits.queue + 40,
        max_file_size=service.limits.upload_bytes,
        state_session_capacity=MAX_OPEN + MAX_CLOSED,
        prevent_thread_lock=True,
        theme=theme.THEME,
        css=theme.CSS if options.mcp else theme.CSS + gradio_internals.NO_TOOLS_PAGE,
        head=viewer.HEAD,
        footer_links=["api", "settings"],
        mcp_server=options.mcp,
        **_OFF,
        **gradio_internals.NO_PAGE_CHECK,
    )
    if options.mcp and (error := gradio_internals.tool_error(demo)):
        demo.close(verbose=False)
        raise UserError(f"--mcp: tools cannot be offered ({error}); pip install 'latent-ae[mcp]'")
    connections = Connections(descriptors(), is_proxy=functools.partial(_contains, proxies))
    # Open pages would otherwise delay the server's end. The connection's bounds hold from the second one on.
    gradio_internals.set_server(demo, functools.partial(Connection, connections=connections), shutdown_seconds=3)
    log.set_server_logs()
    return Running(demo, service, guard, url)


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
        raise UserError("--mcp needs a package that is not installed: pip install 'latent-ae[mcp]'")
    if accounts:  # Gradio asks for none at these routes, and calls its own endpoints without any
        raise UserError("--mcp with --auth-file: tools cannot be asked for a password; give only one of the two")


def _free_port(host: str, port: int) -> int:
    """The port, a free one for 0. Raises UserError at once; Gradio would retry for seconds."""
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
        raise UserError(f"--trusted-proxy {text}: expected an address or network, like 10.0.0.0/8") from None


def _contains(networks: Sequence[Network], host: str) -> bool:
    try:
        return any(ipaddress.ip_address(host) in network for network in networks)
    except ValueError:
        return False
