"""Work that a visitor starts, watches and may cancel: buttons, progress, errors as sentences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.components import Component

from latent_ae.app.tabs import markup
from latent_ae.service.catalog import ModelInfo, choose
from latent_ae.service.errors import ServiceError
from latent_ae.service.service import Service

QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of an event that takes no time and that no program may call."""
ASKS: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
"""The same of an event that changes a state to which others listen: the browser hears of it through the queue alone."""
MODEL_EVENTS = 8
"""Page requests that the service works on at a time; Gradio's queue holds the others and shows their place."""
_OLD = "old"
"""class of results that are not those of the present choices"""
_PROGRESS = gr.Progress()  # as the default of a parameter it asks Gradio for the progress bar of the call

Tick = Callable[[float], None]
"""Shows the share of the work that is done, in [0, 1]; raises Cancelled."""
Updates = dict[Component | gr.Column, Any]


class Cancelled(Exception):  # noqa: N818 - not an error
    """The visitor pressed Cancel, or began other work in this tab."""


class Run:
    """The work of one visitor in one tab, kept in that visitor's gr.State.

    Gradio cannot stop a function that runs in a thread, it only stops waiting for it. The function's own ticks end it.
    """

    def __init__(self) -> None:
        self._number = 0
        self.begun = 0
        """number of the work that was begun last"""
        self.waits = False
        """whether work was begun that has not started"""

    def begin(self) -> None:
        """Begin new work, which may wait; work of this visitor that still runs in this tab ends."""
        self._number += 1
        self.begun = self._number
        self.waits = True

    def start(self, number: int, progress: gr.Progress, describe: Callable[[], str]) -> Tick:
        """The tick of work that was begun under this number, which says what it `describe`s.

        Raises Cancelled if it was cancelled while it waited, or if other work was begun.
        """

        def tick(share: float) -> None:
            if self._number != number:
                raise Cancelled
            progress(min(1.0, max(0.0, share)), desc=describe())

        tick(0.0)
        self.waits = False
        return tick

    def cancel(self) -> None:
        """End what waits or runs."""
        self._number += 1
        self.waits = False


class Job:
    """What every tab has: buttons that start and cancel its work, a status line, and results."""

    start: gr.Button
    cancel: gr.Button
    status: gr.HTML
    results: gr.Column

    def __init__(self, service: Service) -> None:
        self._service = service
        self._run = gr.State(Run())
        self._done = gr.State(0)
        self._made_by = gr.State(None)
        self.asked = gr.State(0)
        """a new value starts the work, as the button does"""

    def buttons(self, label: str) -> None:
        """Draw the start button, and the cancel button, which is hidden until something runs."""
        self._label = label
        with gr.Row(elem_classes="buttons"):
            self.start = gr.Button(label, variant="primary", min_width=120)
            self.cancel = gr.Button("Cancel", min_width=80, scale=0, visible=False)

    @contextmanager
    def answers(self, title: str, text: str) -> Iterator[None]:
        """The column of the status line, which first shows a title and a text, and of results, hidden until then."""
        with gr.Column(scale=9, min_width=300, elem_classes="answers"):
            self.status = gr.HTML(markup.placeholder(title, text), elem_classes="status")
            self._other = gr.HTML(visible=False)
            with gr.Column(visible=False) as self.results:
                yield

    def connect(
        self,
        work: Callable[..., Updates],
        description: str,
        *,
        inputs: Sequence[Component],
        outputs: Sequence[Component],
        model: gr.Dropdown | None = None,
        also: Sequence[Any] = (),
    ) -> None:
        """Let the start button run `work(tick, *inputs)` through Gradio's queue, and show its results.

        Errors of the service are shown in the status line. Older results are dimmed until the new ones come, and hidden
        after an error, because they would pass for those of the request that failed. With `model`, one of the inputs,
        results are dimmed and named when another model is chosen. `also` are other events that start the work.
        """
        made_by = inputs.index(model) if model is not None else None

        def handle(run: Run, progress: gr.Progress = _PROGRESS, *values: Any) -> Updates:
            number = run.begun
            try:
                updates = work(run.start(number, progress, self._describe(description)), *values)
            except ServiceError as error:
                return {self.status: markup.error(sentence(str(error))), self.results: gr.update(visible=False)}
            except Cancelled:
                return {self.status: gr.update()}  # what ended it has said so
            name = None if made_by is None else values[made_by]
            shown: Updates = {
                self.results: gr.update(visible=True, elem_classes=[]),
                self._other: gr.update(visible=False),
                self._made_by: name,
                self._done: number,
            }
            return {**shown, **updates}

        handle.__name__ = work.__name__

        def begin(run: Run) -> tuple[Any, Any, Any]:
            run.begin()
            return gr.update(interactive=False), gr.update(visible=True), gr.update(elem_classes=[_OLD])

        def ready(run: Run) -> tuple[Any, Any]:
            return gr.update(interactive=not run.waits), gr.update(visible=run.waits)

        buttons = [self.start, self.cancel]
        begun = gr.on(
            [self.start.click, self.asked.change, *also],
            begin,
            self._run,
            [*buttons, self.results],
            trigger_mode="multiple",
            **QUICK,
        )
        working = begun.then(
            handle,
            [self._run, *inputs],
            [*outputs, self.results, self.status, self._other, self._made_by, self._done],
            show_progress_on=self.status,
            trigger_mode="always_last",
            api_visibility="private",
            concurrency_id="model",
            concurrency_limit=MODEL_EVENTS,
        )
        working.then(ready, self._run, buttons, **QUICK)
        self._cancel_stops([working])
        if model is not None:
            model.change(self._mark_other, [model, self._made_by], [self._other, self.results], **QUICK)

    def follow(
        self,
        work: Callable[..., Updates],
        description: str,
        *,
        inputs: Sequence[Component],
        outputs: Sequence[Component],
        status: gr.HTML,
    ) -> None:
        """Run `work(tick, *inputs)` after the connected work has succeeded, with its progress and errors in `status`.

        The buttons do not wait for it; new work in the tab ends it.
        """

        def handle(run: Run, number: int, progress: gr.Progress = _PROGRESS, *values: Any) -> Updates:
            try:
                return work(run.start(number, progress, self._describe(description)), *values)
            except ServiceError as error:
                return {status: markup.error(sentence(str(error)))}
            except Cancelled:
                return {status: ""}

        handle.__name__ = work.__name__
        self._done.change(
            handle,
            [self._run, self._done, *inputs],
            [*outputs, status],
            show_progress_on=status,
            trigger_mode="always_last",
            api_visibility="private",
            concurrency_id=work.__name__,
            concurrency_limit=MODEL_EVENTS,
        )

    def _describe(self, description: str) -> Callable[[], str]:
        return lambda: waiting(self._service.others_ahead()) or description

    def _cancel_stops(self, working: list[Any]) -> None:
        def stop(run: Run) -> tuple[Any, ...]:
            run.cancel()
            ready = gr.update(interactive=True), gr.update(visible=False)
            return markup.note("Cancelled."), gr.update(elem_classes=[]), *ready

        self.cancel.click(
            stop, self._run, [self.status, self.results, self.start, self.cancel], cancels=working, **QUICK
        )

    def _mark_other(self, chosen: str, made_by: str | None) -> tuple[Any, Any]:
        if made_by in (None, chosen):
            return gr.update(visible=False), gr.update(elem_classes=[])
        told = f"These results are of {made_by}. Press {self._label} for those of {chosen}."
        return gr.update(value=markup.notice(told), visible=True), gr.update(elem_classes=[_OLD])


def waiting(others: int) -> str:
    """What a visitor reads while so many requests of others are served first; '' for none."""
    return "" if not others else f"Waiting for {others} other{'s'[: others > 1]}"


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
