"""Work that a visitor starts, watches and may end: errors as sentences, progress, the Cancel button."""

import functools
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import gradio as gr
from gradio.components import Component

from latent_ae.app.gradio_internals import called_from_page
from latent_ae.app.tabs import markup
from latent_ae.service.catalog import choose
from latent_ae.service.errors import ServiceError
from latent_ae.service.results import ModelInfo


class EventOptions(TypedDict):
    """Arguments of a Gradio event."""

    queue: bool
    show_progress: Literal["hidden"]
    api_visibility: Literal["private"]


QUICK: EventOptions = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of an event that takes no time and that no program may call."""
Updates = dict[Component, Any]
MODEL_EVENTS = 8
"""requests of visitors that are with the service at a time; Gradio's queue holds the others and shows their place"""


class Cancelled(Exception):  # noqa: N818 - not an error
    """The visitor pressed Cancel."""


class Run:
    """The work of one visitor on one tab, kept in that visitor's gr.State.

    Gradio cannot end a function that runs in a thread, it only stops waiting for it. The function's own ticks end it.
    """

    def __init__(self) -> None:
        self._number = 0
        self._begun = 0

    def begin(self) -> None:
        """The visitor asked for work, which may wait; what still runs of this visitor on this tab ends."""
        self._number += 1
        self._begun = self._number

    def start(self, progress: gr.Progress, describe: str) -> Callable[[float], None]:
        """The tick of the work that was begun: shows the share that is done, and raises Cancelled after `cancel`.

        Raises Cancelled if that came while it waited.
        """
        number = self._begun

        def tick(share: float) -> None:
            if self._number != number:
                raise Cancelled
            progress(min(1.0, max(0.0, share)), desc=describe)

        tick(0.0)
        return tick

    def cancel(self) -> None:
        """End what waits or runs."""
        self._number += 1


def guarded(status: gr.HTML, results: Component) -> Callable[[Callable[..., Updates]], Callable[..., Updates]]:
    """A decorator for event handlers: what the service refuses is told on the page and in a toast.

    Results of an earlier run are hidden then: they would pass for those of the request that failed.
    """

    def wrap(handler: Callable[..., Updates]) -> Callable[..., Updates]:
        @functools.wraps(handler)
        def handle(*args: Any) -> Updates:
            try:
                return handler(*args)
            except ServiceError as error:
                message = sentence(str(error))
                if called_from_page():  # else there is no page, and Gradio would print it
                    gr.Warning(html.escape(message))  # a toast shows HTML
                return {status: markup.error(message), results: gr.update(visible=False)}
            except Cancelled:
                return {status: markup.note("Cancelled.")}

        return handle

    return wrap


def info_of(infos: Mapping[str, ModelInfo], name: str | None) -> ModelInfo:
    """What is known of the model that a chooser says, by its id; anybody may say anything in its place."""
    try:
        return infos[choose(infos, name)]
    except ServiceError as error:
        raise gr.Error(f"{error.code}: {error}", duration=None, print_exception=False) from None


def sentence(message: str) -> str:
    """An error's message or a note as a sentence: with a capital letter and a full stop."""
    message = message.strip()
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")


def connect(
    start: gr.Button,
    cancel: gr.Button,
    handler: Callable[..., Updates],
    *,
    run: gr.State,
    inputs: Sequence[Component],
    outputs: Sequence[Component],
    status: gr.HTML,
) -> None:
    """Let `start` run `handler(run, *inputs)` through the queue, and `cancel` end it."""

    def begin(run: Run) -> tuple[Any, Any]:
        run.begin()
        return gr.update(interactive=False), gr.update(visible=True)

    begun = start.click(begin, run, [start, cancel], **QUICK)
    work = begun.then(
        handler,
        [run, *inputs],
        [*outputs, status],
        show_progress_on=status,
        api_visibility="private",
        concurrency_id="model",
        concurrency_limit=MODEL_EVENTS,
    )
    ready = (gr.update(interactive=True), gr.update(visible=False))
    work.then(lambda: ready, None, [start, cancel], **QUICK)

    def stop(run: Run) -> tuple[str, Any, Any]:
        run.cancel()
        return markup.note("Cancelled."), *ready

    cancel.click(stop, run, [status, start, cancel], cancels=work, **QUICK)
