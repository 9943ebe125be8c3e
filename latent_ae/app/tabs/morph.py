"""Morph: the way through the latents from one image to another, and over the plane between four."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import numpy as np

from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.files import animation, chosen, download, gallery, png
from latent_ae.app.tabs.job import QUICK, Run, Updates, connect, guarded, info_of
from latent_ae.service import Service
from latent_ae.service.results import ModelInfo

_WALK_GRID = 8
"""latents along a side"""
_MOST_SIDE = 8
"""images along a side of the plane"""
_PATHS = ["Linear", "Spherical"]


def add_tab(service: Service, *, model: gr.Dropdown, examples: Sequence[Path]) -> None:
    """Draw the tab; `model` is the page's chooser."""
    _between_two(service, model, examples)
    if service.limits.max_grid_side <= 2:  # the plane would be its four corners
        return
    infos = {info.id: info for info in service.models()}
    with gr.Column(visible=suits_walks(service.models()[0])) as walk:
        gr.HTML(markup.title("Between four images"))
        _between_four(service, model, examples)
    model.change(lambda name: gr.update(visible=suits_walks(info_of(infos, name))), model, walk, **QUICK)


def _between_two(service: Service, model: gr.Dropdown, examples: Sequence[Path]) -> None:
    with gr.Row():
        with layout.controls():
            with gr.Row(elem_classes="pair"):
                first = layout.upload("From", height=170)
                last = layout.upload("To", height=170)
            layout.examples(examples, first, last)
            path = gr.Radio(
                _PATHS,
                value=_PATHS[0],
                label="Path",
                info="Linear is a straight line; spherical keeps the length of the latents.",
            )
            steps = gr.Slider(
                2,
                service.limits.samples,
                service.limits.default_steps,
                step=1,
                label="Steps",
                info="Images of the way, both ends included.",
            )
            start, cancel, run = layout.buttons("Morph")
        with layout.answers():
            status = layout.status("Nothing morphed yet", "Choose two images, or click the examples.")
            with gr.Column(visible=False) as results:
                moving = layout.picture("Animation")
                strip = layout.pictures("Steps", columns=9)

    @guarded(status, results)
    def morph(  # noqa: PLR0917 - Gradio hands them over by place
        run: Run,
        name: str,
        origin: str | None,
        target: str | None,
        path: str,
        steps: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for one
    ) -> Updates:
        tick = run.start(progress, "Decoding the way")
        ends = chosen(origin, "image to start from"), chosen(target, "image to end with")
        way = service.interpolate(*ends, model=name, steps=int(steps), spherical=path == _PATHS[1], tick=tick)
        frames = way.images
        captions = ["from", *[f"{i / (len(frames) - 1):.2f}" for i in range(1, len(frames) - 1)], "to"]
        return {
            moving: download(animation(frames), "morph.png"),
            strip: gallery(list(zip(frames, captions, strict=True)), name="step", columns=9),
            status: markup.note(way.note or f"{len(frames)} steps in {way.seconds:.2f} s."),
            results: gr.update(visible=True),
        }

    inputs = [model, first, last, path, steps]
    connect(start, cancel, morph, run=run, inputs=inputs, outputs=[moving, strip, results], status=status)


def _between_four(service: Service, model: gr.Dropdown, examples: Sequence[Path]) -> None:
    with gr.Row():
        with layout.controls():
            with gr.Row(elem_classes="pair"):
                upper = [
                    layout.upload(label, height=150, hint="Choose a file") for label in ("Upper left", "Upper right")
                ]
            with gr.Row(elem_classes="pair"):
                lower = [
                    layout.upload(label, height=150, hint="Choose a file") for label in ("Lower left", "Lower right")
                ]
            layout.examples(examples, *upper, *lower)
            side = gr.Slider(
                2,
                min(_MOST_SIDE, service.limits.max_grid_side),
                service.limits.default_grid_side,
                step=1,
                label="Side",
                info="Images in a row and in a column of the plane.",
            )
            start, cancel, run = layout.buttons("Walk")
        with layout.answers():
            status = layout.status("No walk yet", "Choose four images: what lies between them is decoded as a square.")
            with gr.Column(visible=False) as results:
                plane = layout.picture("The plane between them")

    @guarded(status, results)
    def walk(  # noqa: PLR0917 - Gradio hands them over by place
        run: Run,
        name: str,
        upper_left: str | None,
        upper_right: str | None,
        lower_left: str | None,
        lower_right: str | None,
        side: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for one
    ) -> Updates:
        tick = run.start(progress, "Decoding the plane")
        corners = {
            "upper left": upper_left,
            "upper right": upper_right,
            "lower left": lower_left,
            "lower right": lower_right,
        }
        files = [chosen(path, f"image for the {corner}") for corner, path in corners.items()]
        found = service.walk(files, model=name, side=int(side), tick=tick)
        rows = [np.hstack(found.images[first : first + int(side)]) for first in range(0, len(found.images), int(side))]
        told = found.note or f"{len(found.images)} images in {found.seconds:.2f} s."
        return {
            plane: png(np.vstack(rows), "plane"),
            status: markup.note(told),
            results: gr.update(visible=True),
        }

    inputs = [model, *upper, *lower, side]
    connect(start, cancel, walk, run=run, inputs=inputs, outputs=[plane, results], status=status)


def suits_walks(info: ModelInfo) -> bool:
    """Whether the images a model was trained on have so few latents that a plane between four is worth a look."""
    return info.native_size is not None and info.native_size <= _WALK_GRID * info.factor
