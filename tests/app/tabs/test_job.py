"""Work that a visitor starts, follows and cancels."""

from collections.abc import Callable

import gradio as gr
import pytest

from latent_ae.app.tabs import markup
from latent_ae.app.tabs.job import Cancelled, Job, Run, Tick, waiting
from latent_ae.service.errors import BadRequest
from latent_ae.service.service import Service

pytestmark = pytest.mark.usefixtures("gradio_folder")


def start(run: Run, number: int | None = None) -> Tick:
    return run.start(run.begun if number is None else number, gr.Progress(), lambda: "Working")


def test_cancelling_ends_what_runs_and_not_what_starts_afterwards() -> None:
    run = Run()
    run.begin()
    first = start(run)
    first(0.5)
    run.cancel()
    with pytest.raises(Cancelled):
        first(0.6)
    run.begin()
    second = start(run)
    with pytest.raises(Cancelled):
        first(0.7)
    second(0.1)


def test_work_that_is_cancelled_while_it_waits_does_not_start() -> None:
    run = Run()
    run.begin()
    run.cancel()
    with pytest.raises(Cancelled):
        start(run)
    run.begin()
    start(run)(1.0)


def test_new_work_ends_what_follows_older_work() -> None:
    run = Run()
    run.begin()
    start(run)
    first = run.begun
    following = start(run, first)
    run.begin()
    with pytest.raises(Cancelled):
        following(0.5)
    with pytest.raises(Cancelled):
        start(run, first)
    assert run.waits  # the new work, whose buttons stay as they are
    start(run)
    assert not run.waits


def handler_of(service: Service, work: Callable[..., dict], *, follow: bool = False) -> tuple[Job, Callable[..., dict]]:
    """What Gradio calls when the start button is pressed, or afterwards; in the Blocks that is being built."""
    job = Job(service)
    job.buttons("Start")
    with job.answers("Nothing yet", "Press Start."):
        below = gr.HTML()
    model = gr.Dropdown(["tiny-kl", "tiny-vq"])
    if follow:
        job.connect(lambda _tick, _model: {}, "Working", inputs=[model], outputs=[])
        job.follow(work, "Searching", inputs=[], outputs=[], status=below)
    else:
        job.connect(work, "Working", inputs=[model], outputs=[], model=model)
    (handler,) = [event.fn for event in gr.context.Context.root_block.fns.values() if event.name == work.__name__]
    run = Run()
    run.begin()
    return (
        (job, lambda: handler(run, run.begun, gr.Progress()))
        if follow
        else (
            job,
            lambda: handler(run, gr.Progress(), "tiny-kl"),
        )
    )


def test_an_error_is_a_sentence_on_the_page_and_hides_older_results(service: Service) -> None:
    def fail(tick: Tick, model: str) -> dict:
        raise BadRequest("no <img src=x onerror=alert(1)> here")

    with gr.Blocks():
        job, handler = handler_of(service, fail)
    answer = handler()
    assert answer[job.status] == markup.error("No <img src=x onerror=alert(1)> here.")
    assert "<img" not in answer[job.status]
    assert answer[job.results]["visible"] is False


def test_an_error_of_what_follows_leaves_the_results(service: Service) -> None:
    def fail(tick: Tick) -> dict:
        raise BadRequest("too much")

    with gr.Blocks():
        job, handler = handler_of(service, fail, follow=True)
    answer = handler()
    assert list(answer.values()) == [markup.error("Too much.")]
    assert job.results not in answer


def test_other_errors_are_not_swallowed(service: Service) -> None:
    def fail(tick: Tick, model: str) -> dict:
        raise ZeroDivisionError

    with gr.Blocks():
        _, handler = handler_of(service, fail)
    with pytest.raises(ZeroDivisionError):
        handler()


def test_work_that_is_cancelled_leaves_the_page_to_what_ended_it(service: Service) -> None:
    def cancelled(tick: Tick, model: str) -> dict:
        raise Cancelled

    with gr.Blocks():
        job, handler = handler_of(service, cancelled)
    assert handler() == {job.status: gr.update()}


def test_results_of_another_model_are_marked_until_there_are_new_ones(service: Service) -> None:
    def work(tick: Tick, model: str) -> dict:
        return {}

    with gr.Blocks() as demo:
        job, handler = handler_of(service, work)
    assert handler()[job.results] == gr.update(visible=True, elem_classes=[])
    (mark,) = [event.fn for event in demo.fns.values() if event.name == "_mark_other"]
    told, dimmed = mark("tiny-vq", "tiny-kl")
    assert "of tiny-kl. Press Start for those of tiny-vq." in told["value"]
    assert dimmed["elem_classes"] == ["old"]
    for same in (mark("tiny-kl", "tiny-kl"), mark("tiny-vq", None)):
        assert same == (gr.update(visible=False), gr.update(elem_classes=[]))


def test_who_waits_reads_for_how_many_others() -> None:
    assert [waiting(count) for count in (0, 1, 3)] == ["", "Waiting for 1 other", "Waiting for 3 others"]
