"""Interpolate: decoded latents between two images, and on a grid between four."""

from collections.abc import Sequence

import gradio as gr

from latent_ae.app.address import Address
from latent_ae.app.files import animation, chosen, download, gallery, png
from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.job import QUICK, Job, Tick, Updates, info_of
from latent_ae.io.image import image_grid
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.service import Service

_MAX_LATENTS = 8
"""latents along a side of the training images up to which the grid is offered"""
_MAX_SIDE = 8
"""images along a side of the grid"""
_PATHS = ["Linear", "Spherical"]
_CORNERS = ["Upper left", "Upper right", "Lower left", "Lower right"]


def add_tab(service: Service, *, model: gr.Dropdown, address: Address, examples: Sequence[str]) -> None:
    """Draw the tab; `model` is the page's chooser."""
    _between_two(service, model, address, examples)
    if service.limits.max_grid_side <= 2:  # the grid would be its four corners
        return
    infos = {info.id: info for info in service.models()}
    with gr.Column(visible=suits_grid(service.models()[0])) as grid:
        gr.HTML(markup.title("Between four images"))
        _between_four(service, model, address, examples)
    model.change(lambda name: gr.update(visible=suits_grid(info_of(infos, name))), model, grid, **QUICK)


def _between_two(service: Service, model: gr.Dropdown, address: Address, examples: Sequence[str]) -> None:
    limits, job = service.limits, Job(service)
    with gr.Row():
        with layout.controls():
            with gr.Row(elem_classes="pair"):
                first, last = (
                    layout.ImageInput(end, service, model, height=170, value=value)
                    for end, value in zip(("From", "To"), _filled(examples, 2), strict=True)
                )
            difference = "Linear is a straight line; spherical keeps the length of the latents."
            path = gr.Radio(_PATHS, value=_PATHS[0], label="Path", info=difference)
            steps = gr.Slider(
                2, limits.samples, limits.default_steps, step=1, label="Steps", info="Images, both ends included."
            )
            job.buttons("Interpolate")
        with job.answers("Nothing interpolated yet", "Press Interpolate, or choose two images of your own."):
            moving = layout.picture("Animation")
            strip = layout.pictures("Steps", columns=9)

    def interpolate(tick: Tick, name: str, path: str, steps: int, *paths: str | None) -> Updates:
        half = len(paths) // 2
        origin, target = first.path(name, paths[:half]), last.path(name, paths[half:])
        ends = chosen(origin, "image to start from"), chosen(target, "image to end with")
        found = service.interpolate(*ends, model=name, steps=int(steps), spherical=path == _PATHS[1], tick=tick)
        frames = found.previews
        captions = ["from", *[f"{i / (len(frames) - 1):.2f}" for i in range(1, len(frames) - 1)], "to"]
        return {
            moving: download(animation(frames), "interpolation.png"),
            strip: gallery(list(zip(frames, captions, strict=True)), name="step", columns=9),
            job.status: markup.note(found.note or f"{len(frames)} steps in {found.seconds:.2f} s."),
        }

    address.keep(path=path, steps=steps)
    inputs = [model, path, steps, *first.components, *last.components]
    job.connect(interpolate, "Decoding the steps", inputs=inputs, outputs=[moving, strip], model=model)


def _between_four(service: Service, model: gr.Dropdown, address: Address, examples: Sequence[str]) -> None:
    limits, job = service.limits, Job(service)
    corners: list[layout.ImageInput] = []
    with gr.Row():
        with layout.controls():
            values = iter(_filled(examples, len(_CORNERS)))
            for pair in (_CORNERS[:2], _CORNERS[2:]):
                with gr.Row(elem_classes="pair"):
                    corners += [
                        layout.ImageInput(corner, service, model, height=150, hint="Choose a file", value=next(values))
                        for corner in pair
                    ]
            most = min(_MAX_SIDE, limits.max_grid_side)
            side = gr.Slider(2, most, limits.default_grid_side, step=1, label="Side", info="Images per row and column.")
            job.buttons("Decode the grid")
        with job.answers("No grid yet", "The latents between four images are decoded as a square."):
            grid = layout.picture("Grid between the four images")

    def interpolate_grid(tick: Tick, name: str, side: int, *paths: str | None) -> Updates:
        each, side = len(paths) // len(corners), int(side)
        files = [
            chosen(corner.path(name, paths[place * each :][:each]), f"image for the {_CORNERS[place].lower()}")
            for place, corner in enumerate(corners)
        ]
        found = service.interpolate_grid(files, model=name, side=side, tick=tick)
        images = found.previews
        rows = [images[first : first + side] for first in range(0, len(images), side)]
        return {
            grid: png(image_grid(rows), "grid"),
            job.status: markup.note(found.note or f"{len(images)} images in {found.seconds:.2f} s."),
        }

    address.keep(side=side)
    given = [component for corner in corners for component in corner.components]
    job.connect(interpolate_grid, "Decoding the grid", inputs=[model, side, *given], outputs=[grid], model=model)


def suits_grid(info: ModelInfo) -> bool:
    """Whether the images a model was trained on have few enough latents for a grid to show something."""
    return info.native_size is not None and info.native_size <= _MAX_LATENTS * info.factor


def _filled(examples: Sequence[str], count: int) -> list[str | None]:
    """Examples for so many boxes, None where there are too few."""
    return [*examples[:count], *[None] * (count - len(examples))]
