"""What runs beside the requests: old files are deleted, and old results forgotten."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import gradio as gr

from latent_ae.app import gradio_internals, temporary
from latent_ae.app.perimeter.bodies import Bodies
from latent_ae.app.perimeter.guard import Traffic
from latent_ae.app.perimeter.sessions import Sessions

_SWEEP_SECONDS = 30.0
_FULL_SECONDS = 1.0
"""Between sweeps while the space is full, and between checks whether it is."""
_FORGET_SECONDS = 1.0
_GARBAGE_BYTES = 16 << 20
"""Bytes of request bodies after which garbage is collected."""

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def forgetting(sessions: Sessions, bodies: Bodies) -> AsyncIterator[None]:
    """Drop what visitors left in memory."""

    async def forget_for_ever() -> None:
        before = bodies.received
        while True:
            await asyncio.sleep(_FORGET_SECONDS)
            sessions.forget_old()
            # A call that fails leaves its values in a cycle with its stack. Python collects by number of objects, and
            # a few hundred of these hold hundreds of megabytes.
            if bodies.received - before > _GARBAGE_BYTES:
                before = bodies.received
                gc.collect()

    async with _running(forget_for_ever()):
        yield


@contextlib.asynccontextmanager
async def sweeping(
    demo: gr.Blocks, sweep: Callable[..., temporary.Swept], traffic: Traffic, *, stored_bytes: int, keep_seconds: float
) -> AsyncIterator[None]:
    """Delete old temporary files, except the page's own, which exist now."""
    kept = temporary.files_under(gradio_internals.upload_folder())

    async def sweep_once() -> None:
        before = traffic.written
        try:
            gone, left = await asyncio.to_thread(sweep, kept=kept)
        except OSError:
            _log.exception("cannot remove temporary files")
            return
        traffic.swept(left, before)
        gradio_internals.forget_files(demo, gone)

    async def sweep_for_ever() -> None:
        while True:
            end = time.monotonic() + min(_SWEEP_SECONDS, keep_seconds)
            await asyncio.sleep(_FULL_SECONDS)
            while traffic.stored <= stored_bytes and time.monotonic() < end:
                await asyncio.sleep(_FULL_SECONDS)
            await sweep_once()

    await sweep_once()  # what is there counts from the start
    async with _running(sweep_for_ever()):
        yield


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
