"""Decode: a latent file back to images of exactly their original size."""

from typing import Any

import gradio as gr

from latent_ae.app.files import chosen, gallery, numbered, png, whole
from latent_ae.app.gradio_internals import pass_uploads_as_paths
from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.job import ASKS, Job, Tick, Updates, sentence
from latent_ae.service.results import Images
from latent_ae.service.service import Service

_ANY = "The model that made them"


def add_tab(service: Service, *, tabs: gr.Tabs, carried: gr.State) -> None:
    """Draw the tab. A latent file names its model, so the tab has a model chooser of its own.

    A path that `carried` gets is decoded at once, with this tab of `tabs` opened.
    """
    job = Job(service)
    with gr.Row():
        with layout.controls():
            file = pass_uploads_as_paths(
                gr.File(label="Latent file (.safetensors, .latent)", file_types=[".safetensors", ".latent"], height=160)
            )
            model = gr.Dropdown(
                [_ANY, *(info.id for info in service.models())],
                value=_ANY,
                label="Decode with",
                info="Only a model with the same encoder can decode them; several decoders may share one encoder.",
                filterable=False,
            )
            foreign = gr.Checkbox(
                label="Latents of another program",
                info="Decode them as raw, unscaled latents of the chosen model, even if the file names another encoder "
                "or none, like ComfyUI's.",
            )
            job.buttons("Decode")
        hint = (
            "Choose a latent file written by Reconstruct, the command line or another program. Reconstruct also has a "
            "button that brings its latents here."
        )
        with job.answers("Nothing decoded yet", hint):
            with gr.Column(visible=False) as single:
                image = layout.picture("Image")
            with gr.Column(visible=False) as several:
                images = layout.pictures("Images", columns=4)
            whole_files = gr.File(
                label="Images with all channels", file_count="multiple", interactive=False, visible=False
            )

    def decode(tick: Tick, path: str | None, name: str, foreign: bool) -> Updates:
        model = None if name == _ANY else name
        decoded = service.decode(chosen(path, "latent file"), model=model, foreign=foreign, tick=tick)
        shown, count = decoded.previews, len(decoded.images)
        first = shown[0]
        size = f"{first.shape[1]} \N{MULTIPLICATION SIGN} {first.shape[0]} pixels"
        number = "1 image" if count == 1 else f"{count} images"
        summary = f"{number} of {size}, decoded by {decoded.model} in {decoded.seconds:.2f} s."
        return {
            image: png(first, "decoded") if count == 1 else None,
            images: None if count == 1 else gallery(numbered(shown), name="decoded", columns=4),
            single: gr.update(visible=count == 1),
            several: gr.update(visible=count > 1),
            whole_files: _whole_images(decoded),
            job.status: markup.note(f"{summary} {sentence(decoded.note)}" if decoded.note else summary),
        }

    outputs = [image, images, single, several, whole_files]
    job.connect(decode, "Decoding", inputs=[file, model, foreign], outputs=outputs, also=[file.upload])
    carried.change(
        lambda path, number: (gr.update(selected="decode"), path, _ANY, False, number + 1),
        [carried, job.asked],
        [tabs, file, model, foreign, job.asked],
        **ASKS,
    )


def _whole_images(decoded: Images) -> dict[str, Any]:
    """An update that offers the images where the page shows previews of them."""
    if decoded.pixel_format.is_default:
        return gr.update(value=None, visible=False)
    named = [
        whole(image, decoded.pixel_format, f"decoded-{number}") for number, image in enumerate(decoded.images, start=1)
    ]
    return gr.update(value=named, visible=True)
