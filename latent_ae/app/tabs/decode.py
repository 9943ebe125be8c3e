"""Decode: a latent file back to images of exactly the size they had."""

import gradio as gr

from latent_ae.app.gradio_internals import pass_uploads_as_paths
from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.files import chosen, gallery, png
from latent_ae.app.tabs.job import Run, Updates, connect, guarded, sentence
from latent_ae.service import Service

_ANY = "The model that made them"


def add_tab(service: Service) -> None:
    """Draw the tab. The latents say which model they are of, so it has a chooser of its own."""
    names = [info.id for info in service.models()]
    with gr.Row():
        with layout.controls():
            file = pass_uploads_as_paths(
                gr.File(label="Latent file (.safetensors, .latent)", file_types=[".safetensors", ".latent"], height=160)
            )
            model = gr.Dropdown(
                [_ANY, *names],
                value=_ANY,
                label="Decode with",
                info="Only a model with the same encoder can read them; several decoders may share one.",
                filterable=False,
            )
            foreign = gr.Checkbox(
                label="Latents of another program",
                info="Take them as the chosen model's, raw and not scaled, also where the file names another encoder "
                "or none, as ComfyUI's.",
            )
            start, cancel, run = layout.buttons("Decode")
        with layout.answers():
            status = layout.status(
                "Nothing decoded yet",
                "Choose a latent file that Reconstruct, the command line or another program wrote.",
            )
            with gr.Column(visible=False) as results:
                with gr.Column(visible=False) as alone:
                    one = layout.picture("Image")
                with gr.Column(visible=False) as several:
                    many = layout.pictures("Images", columns=4)

    @guarded(status, results)
    def decode(
        run: Run,
        path: str | None,
        name: str,
        foreign: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for one
    ) -> Updates:
        tick = run.start(progress, "Decoding")
        model = None if name == _ANY else name
        decoded = service.decode(chosen(path, "latent file"), model=model, foreign=foreign, tick=tick)
        images = decoded.images
        height, width = images[0].shape[:2]
        count = "1 image" if len(images) == 1 else f"{len(images)} images"
        numbered = [(image, str(number)) for number, image in enumerate(images, start=1)]
        single = len(images) == 1
        size = f"{width} \N{MULTIPLICATION SIGN} {height} pixels"
        told = f"{count} of {size}, decoded by {decoded.model} in {decoded.seconds:.2f} s."
        return {
            one: png(images[0], "decoded") if single else None,
            many: None if single else gallery(numbered, name="decoded", columns=4),
            alone: gr.update(visible=single),
            several: gr.update(visible=not single),
            status: markup.note(f"{told} {sentence(decoded.note)}" if decoded.note else told),
            results: gr.update(visible=True),
        }

    outputs = [one, many, alone, several, results]
    connect(start, cancel, decode, run=run, inputs=[file, model, foreign], outputs=outputs, status=status)
