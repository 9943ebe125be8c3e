"""Reconstruct: what a model keeps of an image and what it loses, beside JPEG and WebP of the same size."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from latent_ae.app.address import Address
from latent_ae.app.files import chosen, download, gallery, png, whole
from latent_ae.app.tabs import comparison, layout, markup
from latent_ae.app.tabs.example_results import ExampleResults
from latent_ae.app.tabs.job import ASKS, QUICK, Job, Tick, Updates
from latent_ae.app.tabs.notices import in_numbers, notices
from latent_ae.app.tabs.result_cache import Result, ResultCache
from latent_ae.app.viewer import Picture, viewer
from latent_ae.service.errors import TooLarge
from latent_ae.service.inspection import difference_map
from latent_ae.service.results import Baseline, Encoded, Reconstruction
from latent_ae.service.service import Service

_KEEP_SECONDS = 1800
_SIZES = [("As it is", 0), ("4 megapixels", 4), ("1 megapixel", 1)]
_EXPIRED = "These results have expired: press Reconstruct to compute them again."
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
        self.notices = gr.HTML()
        self.numbers = gr.HTML()
        self.viewer = gr.HTML()
        self.headline = gr.HTML()
        with gr.Row(elem_classes="buttons"):
            self.image_file = gr.DownloadButton("Download the reconstruction", size="sm", min_width=160)
            self.half_file = gr.DownloadButton("Download the latents in float16", size="sm", min_width=160)
            self.latents_file = gr.DownloadButton("Download the latents", size="sm", min_width=160)
            self.decode = gr.Button("Decode these latents", size="sm", min_width=160)
        with gr.Row():
            with gr.Column(scale=5, min_width=280):
                self.difference = layout.picture("Difference")
            with gr.Column(scale=4, min_width=280):
                below = "Pixels that differ by fewer levels than this, of 255, are black."
                self.tolerance = gr.Slider(0, 64, 4, step=1, label="Tolerance", info=below)
                above = "Larger differences are multiplied by this, so that they can be seen."
                self.gain = gr.Slider(1, 32, 8, step=1, label="Gain", info=above)
        self.table = gr.HTML()
        self.searching = gr.HTML(elem_classes="searching")
        self.table_file = gr.DownloadButton("Download the table (CSV)", size="sm")
        self.beside = layout.pictures("Side by side", columns=3, large=True)
        self.channels = layout.pictures("Latents", columns=8, text=layout.LATENTS)

    def show(self, service: Service, made: Sequence[Reconstruction]) -> Updates:
        """Everything but the difference and the baselines. The first reconstruction is that of the page's model."""
        first, file, form = made[0], made[0].encoded, made[0].pixel_format
        told = notices(made)
        rows, seen = comparison.rows(made, ()), _seen(made)
        channels = service.channel_images(file.latents, model=first.model)
        return {
            self.notices: gr.update(value=markup.notice(told), visible=bool(told)),
            self.numbers: markup.lead(in_numbers(first)),
            self.viewer: viewer(seen),
            self.headline: markup.figures(comparison.headline(first)),
            self.table: comparison.as_html(rows, made, ()),
            self.searching: "",
            self.beside: _beside(seen),
            self.channels: layout.latents(channels, codes=file.latents.kind == "vq_indices"),
            # with all channels and bits, of which the page shows what people can see
            self.image_file: seen[1].path if form.is_default else whole(first.reconstructed, form, "reconstruction"),
            **self._latents(file),
            self.table_file: download(comparison.as_csv(rows), "reconstruction.csv"),
        }

    def _latents(self, file: Encoded) -> Updates:
        """Downloads of the latents: in the type that the headline counts, and as the model gave them."""
        half, name = file.in_float16(), "codes" if file.latents.kind == "vq_indices" else "latents in float32"
        short = None if half is None else download(half, f"float16-{file.file_name}")
        return {
            self.half_file: gr.update(value=short, visible=half is not None),
            self.latents_file: gr.update(label=f"Download the {name}", value=download(file.file, file.file_name)),
        }

    def show_baselines(self, shown: Result, baselines: Sequence[Baseline]) -> Updates:
        """JPEG and WebP in the table and beside the pictures that are there."""
        rows, seen = comparison.rows(shown.made, baselines), _seen(shown.made, baselines, shown.files)
        return {
            self.viewer: viewer(seen),
            self.table: comparison.as_html(rows, shown.made, baselines),
            self.table_file: download(comparison.as_csv(rows), "reconstruction.csv"),
            self.beside: _beside(seen),
            self.searching: "",
        }

    def show_difference(self, first: Reconstruction, tolerance: float, gain: float) -> Updates:
        """The difference, in which the visitor may change both numbers."""
        return {self.difference: png(difference_map(*first.previews, tolerance=tolerance, gain=gain), "difference")}


def add_tab(
    service: Service,
    *,
    model: gr.Dropdown,
    address: Address,
    examples: ExampleResults,
    files: Sequence[str],
    opened: gr.State,
    carried: gr.State,
) -> None:
    """Draw the tab; `model` is the page's chooser.

    `files` are the examples as browsers fetch them; the first is reconstructed when `opened` gets a value.
    `carried` gets the path of a latent file that the visitor wants to decode.
    """
    names = [info.id for info in service.models()]
    cache = ResultCache(seconds=_KEEP_SECONDS)
    cached, job = gr.State(None, time_to_live=_KEEP_SECONDS, delete_callback=cache.drop), Job(service)
    with gr.Row():
        with layout.controls():
            image = layout.ImageInput("Image", service, model, value=files[0] if files else None)
            layout.examples(files, image.image, job.asked)
            size = gr.Radio(
                _SIZES,
                value=_SIZES[0][1],
                label="Size",
                info="Larger pictures, like a phone's, are scaled down to this first.",
                visible=not all(info.pixel_format.numbers for info in service.models()),
            )
            others = gr.CheckboxGroup(
                names[1:],
                label="Compare with",
                info="These models reconstruct the image too; each has a row in the table.",
                visible=len(names) > 1,
            )
            job.buttons("Reconstruct")
        with job.answers("Nothing reconstructed yet", "Choose an image or an example."):
            shown = _Results()

    def reconstruct(
        tick: Tick,
        key: str | None,
        name: str,
        also: list[str],
        size: int,
        tolerance: float,
        gain: float,
        *paths: str | None,
    ) -> Updates:
        file = chosen(image.path(name, paths), "image")
        models = [name, *(other for other in also if other != name)]
        try:
            made = reconstructions(examples, file, models, tick, max_pixels=size * 10**6 or None)
        except TooLarge as error:
            raise TooLarge(f"{error}. A Size below the image scales it down") from error
        settings = tolerance, gain
        updates = examples.shown(
            "pictures", made, settings, lambda: shown.show(service, made) | shown.show_difference(made[0], *settings)
        )
        cache.drop(key)
        pictures = [path for path, _ in updates[shown.beside]["value"]]
        return {
            **updates,
            cached: cache.put(Result(tuple(made), tuple(pictures))),
            job.status: markup.note(comparison.summary(made)),
        }

    def compare(tick: Tick, key: str | None) -> Updates:
        result = cache.get(key)
        if result is None:
            return {shown.searching: ""}
        baselines = examples.baselines(result.made[0], tick)
        return examples.shown("baselines", result.made, (), lambda: shown.show_baselines(result, baselines))

    def redraw(key: str | None, tolerance: float, gain: float) -> Updates:
        result = cache.get(key)
        if result is None:
            return {job.status: markup.note(_EXPIRED)}
        return shown.show_difference(result.made[0], tolerance, gain)

    def carry(key: str | None) -> Updates:
        result = cache.get(key)
        if result is None:
            return {job.status: markup.note(_EXPIRED)}
        latents = result.made[0].encoded
        return {carried: download(latents.file, latents.file_name)}

    def remaining(name: str, also: list[str]) -> object:
        left = [each for each in names if each != name]
        return gr.update(choices=left, value=[each for each in also if each != name])

    address.keep(size=size, tolerance=shown.tolerance, gain=shown.gain)
    settings = [shown.tolerance, shown.gain]
    outputs = [cached, *(component for component in vars(shown).values() if component not in settings)]
    inputs = [cached, model, others, size, *settings, *image.components]
    triggers = [*image.uploads, *([opened.change] if files else [])]
    job.connect(reconstruct, "Encoding and decoding", inputs=inputs, outputs=outputs, model=model, also=triggers)
    compared = [shown.viewer, shown.table, shown.table_file, shown.beside]
    job.follow(
        compare,
        "Searching for JPEG and WebP files of this size",
        inputs=[cached],
        outputs=compared,
        status=shown.searching,
    )
    redrawn = [shown.difference, job.status]
    gr.on([each.change for each in settings], redraw, [cached, *settings], redrawn, **_REDRAW)
    shown.decode.click(carry, cached, [carried, job.status], **ASKS)
    model.change(remaining, [model, others], others, **QUICK)


def _seen(
    made: Sequence[Reconstruction], baselines: Sequence[Baseline] = (), files: Sequence[str] = ()
) -> list[Picture]:
    """The original, each reconstruction and each baseline; `files` are those of the first, which are there already."""
    pictures = comparison.pictures(made, baselines)
    # The viewer, the gallery and the download share files: of a large photograph they are tens of megabytes.
    names = ["original", "reconstruction", *(f"picture-{number}" for number in range(3, len(pictures) + 1))]
    new = [png(image, name) for (image, _, _), name in list(zip(pictures, names, strict=True))[len(files) :]]
    return [Picture(path, name, figures) for path, (_, name, figures) in zip([*files, *new], pictures, strict=True)]


def _beside(seen: Sequence[Picture]) -> dict[str, Any]:
    return gallery([(each.path, each.caption) for each in seen], columns=4 if len(seen) == 4 else 3)


def reconstructions(
    examples: ExampleResults, file: Path, models: Sequence[str], tick: Tick, *, max_pixels: int | None = None
) -> list[Reconstruction]:
    """An image by several models, one after another."""

    def part(done: int, share: float) -> None:
        tick((done + share) / len(models))

    return [
        examples.reconstruct(file, model, functools.partial(part, done), max_pixels=max_pixels)
        for done, model in enumerate(models)
    ]
