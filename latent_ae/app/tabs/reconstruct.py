"""Reconstruct: what a model keeps of an image and what it loses, beside JPEG and WebP of the same size."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from latent_ae.app.files import chosen, download, gallery, png, whole
from latent_ae.app.tabs import comparison, layout, markup
from latent_ae.app.tabs.job import QUICK, Job, Tick, Updates
from latent_ae.app.tabs.result_cache import ResultCache
from latent_ae.io.image import Pixels
from latent_ae.service.inspection import difference_map
from latent_ae.service.results import Baseline, Reconstruction
from latent_ae.service.service import Service

_KEEP_SECONDS = 1800
_REDRAW: dict[str, Any] = {
    "trigger_mode": "always_last",
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_id": "difference",
    "concurrency_limit": 4,
}


class _Results:
    """The components of the results."""

    def __init__(self) -> None:
        gr.HTML(markup.ends("Original", "Reconstruction"))
        self.slider = gr.ImageSlider(
            label="Original and reconstruction",
            show_label=False,
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            elem_classes="picture",
        )
        self.headline = gr.HTML()
        self.latents_file = gr.DownloadButton("Download the latents", size="sm")
        self.image_file = gr.DownloadButton("Download the reconstruction, all channels", size="sm", visible=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=280):
                self.difference = layout.picture("Difference")
            with gr.Column(scale=4, min_width=280):
                below = "Pixels that differ by fewer levels than this, of 255, are black."
                self.tolerance = gr.Slider(0, 64, 4, step=1, label="Tolerance", info=below)
                above = "Larger differences are multiplied by this, so that they can be seen."
                self.gain = gr.Slider(1, 32, 8, step=1, label="Gain", info=above)
        self.table = gr.HTML()
        self.table_file = gr.DownloadButton("Download the table (CSV)", size="sm")
        self.beside = layout.pictures("Side by side", columns=3, large=True)
        self.channels = layout.pictures("Latents", columns=8, text=layout.LATENTS)

    def show(self, service: Service, made: Sequence[Reconstruction], baselines: Sequence[Baseline]) -> Updates:
        """Everything but the difference. The first reconstruction is that of the page's model."""
        first, file = made[0], made[0].encoded
        rows, pictures = comparison.rows(made, baselines), comparison.pictures(made, baselines)
        # The slider and the gallery share the files: of a large photograph they are tens of megabytes.
        ends = png(pictures[0][0], "original"), png(pictures[1][0], "reconstruction")
        beside: list[tuple[Pixels | str, str]] = [
            *((end, caption) for end, (_, caption) in zip(ends, pictures[:2], strict=True)),
            *pictures[2:],
        ]
        channels = service.channel_images(file.latents, model=first.model)
        return {
            self.slider: ends,
            self.headline: markup.figures(comparison.headline(first)),
            self.table: comparison.as_html(rows, made, baselines),
            self.beside: gallery(beside, name="picture", columns=4 if len(beside) == 4 else 3),
            self.channels: layout.latents(channels, codes=file.latents.kind == "vq_indices"),
            self.latents_file: download(file.file, file.file_name),
            self.image_file: _whole_image(first),
            self.table_file: download(comparison.as_csv(rows), "reconstruction.csv"),
        }

    def show_difference(self, first: Reconstruction, tolerance: float, gain: float) -> Updates:
        """The difference, in which the visitor may change both numbers."""
        return {self.difference: png(difference_map(*first.previews, tolerance=tolerance, gain=gain), "difference")}


def add_tab(service: Service, *, model: gr.Dropdown, examples: Sequence[Path]) -> None:
    """Draw the tab; `model` is the page's chooser."""
    names = [info.id for info in service.models()]
    cache = ResultCache(seconds=_KEEP_SECONDS)
    cached, job = gr.State(None, time_to_live=_KEEP_SECONDS, delete_callback=cache.drop), Job()
    with gr.Row():
        with layout.controls():
            image = layout.ImageInput("Image", service, model)
            layout.examples(examples, image.image)
            others = gr.CheckboxGroup(
                names[1:],
                label="Compare with",
                info="These models reconstruct the image too; each has a row in the table.",
                visible=len(names) > 1,
            )
            job.buttons("Reconstruct")
        with job.answers("Nothing reconstructed yet", "Choose an image or an example, then press Reconstruct."):
            shown = _Results()

    def reconstruct(
        tick: Tick,
        key: str | None,
        name: str,
        also: list[str],
        tolerance: float,
        gain: float,
        *paths: str | None,
    ) -> Updates:
        file = chosen(image.path(name, paths), "image")
        made = reconstructions(service, file, [name, *(other for other in also if other != name)], tick)
        baselines = service.baselines(made[0], tick=lambda _share: tick(1.0))
        cache.drop(key)
        return {
            cached: cache.put(made[0]),
            **shown.show(service, made, baselines),
            **shown.show_difference(made[0], tolerance, gain),
            job.status: markup.note(comparison.summary(made)),
        }

    def redraw(key: str | None, tolerance: float, gain: float) -> Updates:
        first = cache.get(key)
        if first is None:
            return {job.status: markup.note("These results have expired: press Reconstruct to compute them again.")}
        return shown.show_difference(first, tolerance, gain)

    def remaining(name: str, also: list[str]) -> object:
        left = [each for each in names if each != name]
        return gr.update(choices=left, value=[each for each in also if each != name])

    settings = [shown.tolerance, shown.gain]
    outputs = [cached, *(component for component in vars(shown).values() if component not in settings)]
    inputs = [cached, model, others, *settings, *image.components]
    job.connect(reconstruct, "Encoding and decoding", inputs=inputs, outputs=outputs)
    redrawn = [shown.difference, job.status]
    gr.on([each.change for each in settings], redraw, [cached, *settings], redrawn, **_REDRAW)
    model.change(remaining, [model, others], others, **QUICK)


def _whole_image(made: Reconstruction) -> dict[str, Any]:
    """An update that offers the reconstruction where the page shows a preview of it."""
    if made.pixel_format.is_default:
        return gr.update(value=None, visible=False)
    return gr.update(value=whole(made.reconstructed, made.pixel_format, "reconstruction"), visible=True)


def reconstructions(service: Service, file: Path, models: Sequence[str], tick: Tick) -> list[Reconstruction]:
    """An image by several models, one after another."""

    def part(done: int, share: float) -> None:
        tick((done + share) / len(models))

    return [
        service.reconstruct(file, model=model, tick=functools.partial(part, done)) for done, model in enumerate(models)
    ]
