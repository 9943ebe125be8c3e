"""Work that a visitor starts, watches and may cancel: buttons, progress, errors as sentences."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.components import Component

from latent_ae.app.gradio_internals import called_from_page
from latent_ae.app.tabs import markup
from latent_ae.service.catalog import ModelInfo, choose
from latent_ae.service.errors import ServiceError

QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of an event that takes no time and that no program may call."""
MODEL_EVENTS = 8
"""Page requests that the service works on at a time; Gradio's queue holds the others and shows their place."""
_PROGRESS = gr.Progress()  # as the default of a parameter it asks Gradio for the progress bar of the call

Tick = Callable[[float], None]
"""Shows the share of the work that is done, in [0, 1]; raises Cancelled."""
Updates = dict[Component | gr.Column, Any]


class Cancelled(Exception):  # noqa: N818 - not an error
    """The visitor pressed Cancel."""


class Run:
    """The work of one visitor in one tab, kept in that visitor's gr.State.

    Gradio cannot stop a function that runs in a thread, it only stops waiting for it. The function's own ticks end it.
    """

    def __init__(self) -> None:
        self._number = 0
        self._begun = 0

    def begin(self) -> None:
        """Begin new work, which may wait; work of this visitor that still runs in this tab ends."""
        self._number += 1
        self._begun = self._number

    def start(self, progress: gr.Progress, description: str) -> Tick:
        """The tick of the work that was begun. Raises Cancelled if it was cancelled while it waited."""
        number = self._begun

        def tick(share: float) -> None:
            if self._number != number:
                raise Cancelled
            progress(min(1.0, max(0.0, share)), desc=description)

        tick(0.0)
        return tick

    def cancel(self) -> None:
        """End what waits or runs."""
        self._number += 1


class Job:
    """What every tab has: buttons that start and cancel its work, a status line, and results."""

    start: gr.Button
    cancel: gr.Button
    status: gr.HTML
    results: gr.Column

    def __init__(self) -> None:
        self._run = gr.State(Run())

    def buttons(self, label: str) -> None:
        """Draw the start button, and the cancel button, which is hidden until something runs."""
        with gr.Row(elem_classes="buttons"):
            self.start = gr.Button(label, variant="primary", min_width=120)
            self.cancel = gr.Button("Cancel", min_width=80, scale=0, visible=False)

    @contextmanager
    def answers(self, title: str, text: str) -> Iterator[None]:
        """The column of the status line, which first shows a title and a text, and of results, hidden until then."""
        with gr.Column(scale=9, min_width=300, elem_classes="answers"):
            self.status = gr.HTML(markup.placeholder(title, text), elem_classes="status")
            with gr.Column(visible=False) as self.results:
                yield

    def connect(
        self,
        work: Callable[..., Updates],
        description: str,
        *,
        inputs: Sequence[Component],
        outputs: Sequence[Component],
    ) -> None:
        """Let the start button run `work(tick, *inputs)` through Gradio's queue, and show its results.

        Errors of the service are shown in the status line and in a toast. Older results are hidden then, because they
        would pass for those of the request that failed.
        """

        def handle(run: Run, progress: gr.Progress = _PROGRESS, *values: Any) -> Updates:
            try:
                return {self.results: gr.update(visible=True), **work(run.start(progress, description), *values)}
            except ServiceError as error:
                message = sentence(str(error))
                if called_from_page():  # else there is no page, and Gradio would print it
                    gr.Warning(html.escape(message))  # a toast shows HTML
                return {self.status: markup.error(message), self.results: gr.update(visible=False)}
            except Cancelled:
                return {self.status: markup.note("Cancelled.")}

        handle.__name__ = work.__name__

        def begin(run: Run) -> tuple[Any, Any]:
            run.begin()
            return gr.update(interactive=False), gr.update(visible=True)

        buttons = [self.start, self.cancel]
        working = self.start.click(begin, self._run, buttons, **QUICK).then(
            handle,
            [self._run, *inputs],
            [*outputs, self.results, self.status],
            show_progress_on=self.status,
            api_visibility="private",
            concurrency_id="model",
            concurrency_limit=MODEL_EVENTS,
        )
        ready = gr.update(interactive=True), gr.update(visible=False)
        working.then(lambda: ready, None, buttons, **QUICK)

        def stop(run: Run) -> tuple[str, Any, Any]:
            run.cancel()
            return markup.note("Cancelled."), *ready

        self.cancel.click(stop, self._run, [self.status, *buttons], cancels=working, **QUICK)


def info_of(infos: Mapping[str, ModelInfo], name: str | None) -> ModelInfo:
    """The chosen model's description. Raises gr.Error for an unknown model: a request may name anything."""
    try:
        return infos[choose(infos, name)]
    except ServiceError as error:
        raise gr.Error(f"{error.code}: {error}", duration=None, print_exception=False) from None


def sentence(message: str) -> str:
    """An error's message or a note as a sentence: with a capital letter and a full stop."""
    message = message.strip()
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")
