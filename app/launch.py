"""The server: Gradio and the app's plain routes in one process, with everything off that nothing here needs."""

import asyncio
import contextlib
import functools
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.applications import Starlette
from starlette.types import ASGIApp

import look
import temporary
import tools
from accounts import Accounts
from calls import Calls
from guard import Guard, Traffic, tool_bytes
from latent_ae.errors import UserError
from latent_ae.service import Service
from origins import Origins
from replies import ErrorReplies, Replies
from routes import plain_routes

_SWEEP_SECONDS = 30.0
_FULL_SECONDS = 1.0
"""between sweeps where the space is full, and between looks at whether it is"""
_SESSIONS = 300
"""visitors whose page keeps its state, a third of a megabyte each; who has done nothing for longest leaves first"""
_GOODBYE_SECONDS = 3.0
"""for answers that are on their way when the server ends"""

_log = logging.getLogger(__name__)


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
        end = time.monotonic() + _GOODBYE_SECONDS
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
        mcp: offer the endpoints to language models' tools too.
        keep_seconds: that uploads and results stay: longer than a request takes and a page is looked at.
        stored_bytes: of uploads and results, above which nothing is taken that adds to them.

    Raises UserError if the port, or what `mcp` needs, cannot be had, for `mcp` with `auth`, and for a name or root path
    that cannot be.
    """
    if mcp:
        tools.require_usable(accounts=auth is not None)
    folder = Path(get_upload_folder())
    if str(folder) != demo.GRADIO_CACHE or folder.stat().st_mode & 0o077:
        raise ValueError(f"the page was made with another folder for its files than {folder}, or it is not private")
    if mcp:
        tools.prepare(folder, tool_bytes(service.limits.upload_bytes))
    port = _free_port(host, port)
    traffic, replies = Traffic(), Replies()
    guard = functools.partial(
        Guard,
        calls=Calls(demo, replies),
        replies=replies,
        origins=Origins(host=host, names=allow_hosts, root_path=root_path or ""),
        folder=folder,
        upload_bytes=service.limits.upload_bytes,
        stored_bytes=stored_bytes,
        traffic=traffic,
        mcp=mcp,
    )
    demo.delete_cache = None  # temporary.sweep takes more
    sweep = functools.partial(
        temporary.sweep,
        folder,
        seconds=keep_seconds,
        most=stored_bytes,
        spared_seconds=2 * service.limits.deadline_seconds,
    )
    sweeping = functools.partial(_sweeping, demo, sweep, traffic, stored_bytes, min(_SWEEP_SECONDS, keep_seconds))
    _, url, _ = demo.launch(
        server_name=host,
        server_port=port,
        root_path=root_path or "",
        auth=None if auth is None else auth.allows,
        app_kwargs={
            "routes": plain_routes(service, traffic, replies, auth),
            "lifespan": functools.partial(_lifespan, lambda app: guard(ErrorReplies(app, replies=replies)), sweeping),
            "openapi_url": None,  # FastAPI's list of all of Gradio's inner routes
        },
        # A request that waits in the service holds a thread; those beyond its queue need one to be refused in.
        max_threads=2 * service.limits.queue + 40,
        max_file_size=service.limits.upload_bytes,
        state_session_capacity=_SESSIONS,
        prevent_thread_lock=True,
        theme=look.THEME,
        css=look.CSS,
        footer_links=["api", "settings"],
        mcp_server=mcp,
        **_OFF,
    )
    if mcp and demo.mcp_error:  # Gradio goes on without tools, and says nothing when it is quiet
        demo.close(verbose=False)
        raise UserError(f"--mcp: tools cannot be offered ({demo.mcp_error}); pip install -e '.[mcp]'")
    # Visitors' open pages would otherwise hold the server up when it ends.
    demo.server.config.timeout_graceful_shutdown = 3
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


@contextlib.asynccontextmanager
async def _lifespan(
    guard: Callable[[ASGIApp], ASGIApp],
    sweeping: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    app: Starlette,
) -> AsyncIterator[None]:
    """What is in front of the app, put there before the port opens, and what goes on beside it."""
    # As one of Starlette's own middlewares it would stand behind Gradio's, which let other sites read answers.
    app.middleware_stack = guard(app.middleware_stack)
    async with sweeping():
        yield


@contextlib.asynccontextmanager
async def _sweeping(
    demo: gr.Blocks, sweep: Callable[..., temporary.Swept], traffic: Traffic, stored_bytes: int, seconds: float
) -> AsyncIterator[None]:
    """Remove old temporary files as long as the server runs, apart from the page's own that are there now."""
    kept = temporary.files_under(Path(demo.GRADIO_CACHE))

    async def sweep_once() -> None:
        before = traffic.written
        try:
            gone, left = await asyncio.to_thread(sweep, kept=kept)
        except OSError:
            _log.exception("temporary files could not be removed")
            return
        traffic.swept(left, before)
        # Gradio remembers every file by its name, and would for ever. Here no other thread adds to these sets.
        for files in demo.temp_file_sets:
            files.difference_update(gone)

    async def sweep_for_ever() -> None:
        while True:
            end = time.monotonic() + seconds
            await asyncio.sleep(_FULL_SECONDS)
            while traffic.stored <= stored_bytes and time.monotonic() < end:
                await asyncio.sleep(_FULL_SECONDS)
            await sweep_once()

    await sweep_once()  # what is there counts from the start
    task = asyncio.create_task(sweep_for_ever())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
