"""Reconstruct: what a model keeps of an image and what it loses, beside JPEG and WebP of the same size."""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from latent_ae.app.tabs import comparison, layout, markup
from latent_ae.app.tabs.files import chosen, download, gallery, png
from latent_ae.app.tabs.job import QUICK, Run, Updates, connect, guarded
from latent_ae.app.tabs.result_cache import Shelf
from latent_ae.io.image import Pixels
from latent_ae.service import Service
from latent_ae.service.results import Reconstruction

_KEPT_SECONDS = 1800


def add_tab(service: Service, *, model: gr.Dropdown, examples: Sequence[Path]) -> None:
    """Draw the tab; `model` is the page's chooser."""
    names = [info.id for info in service.models()]
    shelf = Shelf(seconds=_KEPT_SECONDS)
    kept = gr.State(None, time_to_live=_KEPT_SECONDS, delete_callback=shelf.drop)
    with gr.Row():
        with layout.controls():
            image = layout.upload("Image")
            layout.examples(examples, image)
            others = gr.CheckboxGroup(
                names[1:],
                label="Compare with",
                info="The same image goes through these models too, a row each in the table.",
                visible=len(names) > 1,
            )
            start, cancel, run = layout.buttons("Reconstruct")
        with layout.answers():
            status = layout.status(
                "Nothing reconstructed yet", "Choose an image or an example, then press Reconstruct."
            )
            with gr.Column(visible=False) as results:
                shown = _results()

    @guarded(status, results)
    def reconstruct(  # noqa: PLR0917 - Gradio hands them over by place
        run: Run,
        key: str | None,
        path: str | None,
        name: str,
        also: list[str],
        tolerance: float,
        gain: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for one
    ) -> Updates:
        tick = run.start(progress, "Encoding and decoding")
        file = chosen(path, "image")
        wanted = [name, *(other for other in also if other != name)]

        def part(done: int, share: float) -> None:
            tick((done + share) / len(wanted))

        made = [
            service.reconstruct(file, model=each, tick=functools.partial(part, done))
            for done, each in enumerate(wanted)
        ]
        first = made[0]
        rivals = service.rivals(first, tick=lambda _share: tick(1.0))
        rows, pictures = comparison.rows(made, rivals), comparison.pictures(made, rivals)
        # The slider and the gallery share the files: of a large photograph they are tens of megabytes.
        ends = png(first.original, "original"), png(first.reconstructed, "reconstruction")
        captions = [caption for _, caption in pictures]
        beside: list[tuple[Pixels | str, str]] = [
            *zip(ends, captions[: len(ends)], strict=True),
            *pictures[len(ends) :],
        ]
        shelf.drop(key)
        return {
            kept: shelf.put(first),
            shown.slider: ends,
            shown.headline: markup.figures(comparison.headline(first)),
            shown.difference: png(service.difference(first, tolerance=tolerance, gain=gain), "difference"),
            shown.table: comparison.as_html(rows, made, rivals),
            shown.beside: gallery(beside, name="picture", columns=4 if len(beside) == 4 else 3),
            shown.channels: _channels(service, first),
            shown.latents_file: download(first.encoded.file, first.encoded.file_name),
            shown.table_file: download(comparison.as_csv(rows), "reconstruction.csv"),
            status: markup.note(comparison.told(made)),
            results: gr.update(visible=True),
        }

    inputs = [kept, image, model, others, shown.tolerance, shown.gain]
    outputs = [component for name, component in vars(shown).items() if name not in ("tolerance", "gain")]
    connect(start, cancel, reconstruct, run=run, inputs=inputs, outputs=[kept, *outputs, results], status=status)

    def again(key: str | None, tolerance: float, gain: float) -> Updates:
        first = shelf.get(key)
        if first is None:
            return {status: markup.note("These results are no longer kept: press Reconstruct to work on them again.")}
        return {shown.difference: png(service.difference(first, tolerance=tolerance, gain=gain), "difference")}

    gr.on(
        [shown.tolerance.change, shown.gain.change],
        again,
        [kept, shown.tolerance, shown.gain],
        [shown.difference, status],
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        concurrency_id="difference",
        concurrency_limit=4,
    )

    def remaining(name: str, also: list[str]) -> object:
        return gr.update(
            choices=[each for each in names if each != name], value=[each for each in also if each != name]
        )

    model.change(remaining, [model, others], others, **QUICK)


def _results() -> SimpleNamespace:
    shown = SimpleNamespace()
    gr.HTML(markup.ends("Original", "Reconstruction"))
    shown.slider = gr.ImageSlider(
        label="Original and reconstruction",
        show_label=False,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes="picture",
    )
    shown.headline = gr.HTML()
    shown.latents_file = gr.DownloadButton("Download the latents", size="sm")
    with gr.Row():
        with gr.Column(scale=5, min_width=280):
            shown.difference = layout.picture("Difference")
        with gr.Column(scale=4, min_width=280):
            shown.tolerance = gr.Slider(
                0,
                64,
                4,
                step=1,
                label="Tolerance",
                info="Pixels that differ by fewer levels of 255 than this are black.",
            )
            shown.gain = gr.Slider(
                1, 32, 8, step=1, label="Gain", info="What is left is multiplied by this, so that it can be seen."
            )
    shown.table = gr.HTML()
    shown.table_file = gr.DownloadButton("Download the table (CSV)", size="sm")
    shown.beside = layout.pictures("Side by side", columns=3, large=True)
    shown.channels = layout.pictures("Latents", columns=8, text=layout.LATENTS)
    return shown


def _channels(service: Service, first: Reconstruction) -> dict[str, Any]:
    images = service.channel_images(first.encoded.latents, model=first.model)
    captions = ["codes"] if first.encoded.latents.kind == "vq_indices" else [str(i) for i in range(1, len(images) + 1)]
    return gallery(list(zip(images, captions, strict=True)), name="latents", columns=8)
