"""Compare: one image by several models, any two of them side by side, and a row of figures for each."""

import csv
import io
from collections.abc import Sequence

import gradio as gr

from latent_ae.app.address import Address
from latent_ae.app.files import chosen, download, png
from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.comparison import MEANINGS, METRICS, closeness, shown
from latent_ae.app.tabs.job import Job, Tick, Updates
from latent_ae.app.viewer import Picture, viewer
from latent_ae.service.comparison import Compared
from latent_ae.service.service import Service

_TIMES = " \N{MULTIPLICATION SIGN} "
_MEANINGS = {
    **MEANINGS,
    "Compared in": "The form in which the model takes the image, and its reconstruction is compared with it.",
    "Stored": "What the latents of this image are.",
    "Seconds": "That the model worked.",
}
_DASH = "\N{EN DASH}"


def add_tab(service: Service, *, model: gr.Dropdown, address: Address, examples: Sequence[str]) -> None:
    """Draw the tab; the page's chooser `model` says only whether an image or a file of numbers is asked for."""
    names, job = [info.id for info in service.models()], Job(service)
    with gr.Row():
        with layout.controls():
            image = layout.ImageInput("Image", service, model)
            layout.examples(examples, image.image, job.asked)
            models = gr.CheckboxGroup(
                names, value=names, label="Models", info="Each reconstructs the image, one after another."
            )
            job.buttons("Compare")
        with job.answers("Nothing compared yet", "Choose an image or an example."):
            beside, table = gr.HTML(), gr.HTML()
            table_file = gr.DownloadButton("Download the table (CSV)", size="sm")

    def compare_models(tick: Tick, name: str, models: list[str], *paths: str | None) -> Updates:
        found = service.compare(chosen(image.path(name, paths), "image"), models=models, tick=tick)
        return {
            beside: viewer(pictures(found)),
            table: as_html(found),
            table_file: download(as_csv(found), "comparison.csv"),
            job.status: markup.note(_summary(found)),
        }

    address.keep(models=models)
    inputs, outputs = [model, models, *image.components], [beside, table, table_file]
    job.connect(compare_models, "Encoding and decoding", inputs=inputs, outputs=outputs, also=image.uploads)


def as_html(found: Sequence[Compared]) -> str:
    """A row for each model, with what it was compared with, and footnotes."""
    measured = _measured(found)
    columns = ("", "Compared in", "Stored", "Bits per pixel", *(METRICS[name][0] for name in measured), "Seconds")
    return markup.table(
        "Models", columns, [_cells(row, measured) for row in found], notes=_footnotes(found), meanings=_MEANINGS
    )


def as_csv(found: Sequence[Compared]) -> bytes:
    """The rows in full precision, UTF-8."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    measured = _measured(found)
    stored = ("stored_shape", "bits_per_number", "bits_per_pixel")
    writer.writerow(["model", "compared_in", *stored, *(METRICS[name][1] for name in measured), "seconds", "error"])
    for row in found:
        if row.made is None or row.stored is None:
            writer.writerow([row.model, *[""] * (5 + len(measured)), str(row.refusal)])
            continue
        bits = [row.bits_per_number, row.stored.bits_per_pixel]
        figures = [*map(row.made.metrics.get, measured), row.made.seconds, ""]
        writer.writerow([row.model, row.compared_in, "x".join(map(str, row.shape)), *bits, *figures])
    return stream.getvalue().encode()


def _cells(row: Compared, measured: Sequence[str]) -> list[str]:
    if row.made is None or row.stored is None:
        return [row.model, *[_DASH] * (4 + len(measured))]
    what = "numbers" if row.made.encoded.latents.codebook_size is None else "codes"
    stored = f"{_TIMES.join(map(str, row.shape))} {what} of {row.bits_per_number} bits"
    figures = [shown(name, row.made.metrics) for name in measured]
    return [row.model, row.compared_in, stored, f"{row.stored.bits_per_pixel:.3g}", *figures, f"{row.made.seconds:.2f}"]


def pictures(found: Sequence[Compared]) -> list[Picture]:
    """What each model made of the image, and the image as it was given to them: to the first model first of all."""
    made = [(row.compared_in, row.made) for row in found if row.made is not None]
    given = {form: each.previews[0] for form, each in reversed(made)}
    several = len(given) > 1
    originals = [
        Picture(png(given[form], f"original-{number}"), f"Original in {form}" if several else "Original")
        for number, form in enumerate(dict.fromkeys(form for form, _ in made), start=1)
    ]
    models = []
    for form, each in made:
        figures = ", ".join(filter(None, (closeness(each.metrics), f"in {form}" if several else "")))
        models.append(Picture(png(each.previews[1], each.model), each.model, figures))
    return [originals[0], *models, *originals[1:]]


def _summary(found: Sequence[Compared]) -> str:
    made = [row.made for row in found if row.made is not None]
    height, width = made[0].original.shape[:2]
    models = f"{len(made)} model{'s' if len(made) > 1 else ''}"
    return f"{width}{_TIMES}{height} pixels by {models} in {sum(each.seconds for each in made):.2f} s."


def _footnotes(found: Sequence[Compared]) -> list[str]:
    made = [row.made for row in found if row.made is not None]
    notes = [f"{row.model}: {row.refusal}." for row in found if row.made is None]
    if len({row.compared_in for row in found if row.made is not None}) > 1:
        notes.append(
            "Each reconstruction is compared with the image as its model was given it: figures in grey and in colour "
            "cannot be set against each other."
        )
    if any(each.encoded.latents.codebook_size is None for each in made):
        notes.append("Numbers are counted in float16; the figures are of latents in float32.")
    notes += dict.fromkeys(f"{name}: {reason}." for each in made for name, reason in each.notes.items())
    return notes


def _measured(found: Sequence[Compared]) -> list[str]:
    """The metrics that any of the models has."""
    metrics = [row.made.metrics for row in found if row.made is not None]
    return [name for name in METRICS if any(each.get(name) is not None for each in metrics)]
