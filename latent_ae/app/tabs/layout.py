"""What the tabs have in common: controls at the left, results at the right, buttons that start and end the work."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from latent_ae.app.gradio_internals import pass_uploads_as_paths
from latent_ae.app.tabs import markup
from latent_ae.app.tabs.files import download
from latent_ae.app.tabs.job import QUICK, Run

LATENTS = "Each channel over its own range, or each code of the codebook in a colour."
"""below the title of pictures of latents"""


def controls() -> gr.Column:
    """The column of what can be set."""
    return gr.Column(scale=4, min_width=300, elem_classes="controls")


def answers() -> gr.Column:
    """The column of what comes out."""
    return gr.Column(scale=9, min_width=300, elem_classes="answers")


def buttons(label: str) -> tuple[gr.Button, gr.Button, gr.State]:
    """Start, Cancel (hidden until something runs) and the visitor's run."""
    with gr.Row(elem_classes="buttons"):
        start = gr.Button(label, variant="primary", min_width=120)
        cancel = gr.Button("Cancel", variant="secondary", min_width=80, scale=0, visible=False)
    return start, cancel, gr.State(Run())


def status(title: str, text: str) -> gr.HTML:
    """The line above the results: what is going to be there, how it went, or what went wrong."""
    return gr.HTML(markup.placeholder(title, text), elem_classes="status")


def upload(label: str, *, height: int = 260, hint: str = "Drop an image here\n- or -\nChoose a file") -> gr.Image:
    """A box for an image file."""
    image = gr.Image(
        label=label,
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=[],
        height=height,
        alt_text="The chosen image",
        placeholder=hint,
    )
    return pass_uploads_as_paths(image)


def examples(paths: Sequence[Path], *inputs: gr.Image) -> None:
    """Images to click; for several inputs a button that fills all of them."""
    if len(paths) < len(inputs):
        return
    given = [download(path.read_bytes(), path.name) for path in paths]
    if len(inputs) == 1:
        shown = gr.Dataset(
            label="Examples",
            components=[gr.Image(render=False)],
            samples=[[path] for path in given],
            type="index",
            layout="gallery",
        )
        shown.click(given.__getitem__, shown, inputs[0], **QUICK)
    else:
        fill = gr.Button("Use the examples", size="sm")
        fill.click(lambda: given[: len(inputs)], None, list(inputs), **QUICK)


def pictures(title: str, *, columns: int, text: str = "", large: bool = False) -> gr.Gallery:
    """A gallery of results under its title, each without loss."""
    gr.HTML(markup.title(title, text))
    return gr.Gallery(
        label=title,
        show_label=False,
        format="png",
        columns=columns,
        fit_columns=False,
        object_fit="contain",
        interactive=False,
        height="auto",
        buttons=["download", "download_all", "fullscreen"],
        elem_classes=["pictures", *(["large"] if large else [])],
    )


def picture(title: str, *, text: str = "") -> gr.Image:
    """One result under its title, without loss."""
    gr.HTML(markup.title(title, text))
    return gr.Image(
        label=title,
        show_label=False,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        alt_text=title,
        elem_classes="picture",
    )
