"""Inspect: the latents of one image, and the model's card."""

import re
from collections.abc import Mapping, Sequence

import gradio as gr

from latent_ae.app.files import chosen, download
from latent_ae.app.gradio_internals import file_address
from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.job import QUICK, Job, Tick, Updates
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.results import Inspection
from latent_ae.service.service import Service

_CHANNEL = (
    ("image_mean", "Mean", 3),
    ("image_std", "Std", 3),
    ("image_kl_nats", "KL (nats)", 2),
    ("mean", "Training mean", 3),
    ("std", "Training std", 3),
    ("kl_nats", "Training KL", 2),
    ("active_share", "Active units", 2),
)
"""name in an inspection, column header, decimals"""
_CODEBOOK = {
    "used": "Codes used",
    "codebook_size": "Codebook size",
    "perplexity": "Perplexity",
    "entropy_bits": "Entropy (bits per code)",
}
_MEANINGS = {
    "KL (nats)": "How much the channel tells of this image; near 0 it is noise.",
    "Training KL": "The same on average over the training images.",
    "Active units": "Share of the units that depend on the image.",
    "Codes used": "Different codes in this image.",
    "Perplexity": "Number of equally frequent codes that would vary as much.",
    "Entropy (bits per code)": "Mean information of a code, by its frequency in this image.",
}
"""tooltips of names in the tables"""
_PICTURE = re.compile(r"!\[([^\]]*)\](?:\(([^)]*)\)|\[[^\]]*\])")
_RECIPE = re.compile(r"^## Recipe\s+(```yaml\n.*?^```)$", re.DOTALL | re.MULTILINE)
_PICTURE_TAG = re.compile(r"<(?:img|picture|source)\b[^>]*>", re.IGNORECASE)


def add_tab(service: Service, *, model: gr.Dropdown, examples: Sequence[str]) -> None:
    """Draw the tab; `model` is the page's chooser."""
    cards, job = {info.id: card_text(info.card, _addresses(info)) for info in service.models()}, Job(service)
    with gr.Row():
        with layout.controls():
            image = layout.ImageInput("Image", service, model)
            layout.examples(examples, image.image, job.asked)
            job.buttons("Inspect")
        with job.answers("Nothing inspected yet", "Choose an image or an example."):
            chart, table = gr.HTML(), gr.HTML()
            channels = layout.pictures("Latents", columns=8, text=layout.LATENTS)
    with gr.Accordion("Model card", open=False):
        card = gr.Markdown(next(iter(cards.values())), elem_classes="card")

    def inspect(tick: Tick, name: str, *paths: str | None) -> Updates:
        found = service.inspect(chosen(image.path(name, paths), "image"), model=name, tick=tick)
        return {
            chart: _chart(found),
            table: _table(found),
            channels: layout.latents(found.channel_images, codes=found.codebook is not None),
            job.status: markup.paragraph(found.text),
        }

    inputs, outputs = [model, *image.components], [chart, table, channels]
    job.connect(inspect, "Encoding", inputs=inputs, outputs=outputs, model=model, also=image.uploads)
    model.change(cards.get, model, card, **QUICK)


def card_text(card: str, addresses: Mapping[str, str]) -> str:
    """A model card for the page, with its recipe folded.

    Its pictures have the `addresses` of their names; those without one, which lie elsewhere, are replaced by words.
    """

    def shown(found: re.Match[str]) -> str:
        if (address := addresses.get(found[2] or "")) is not None:
            return f"![{found[1]}]({address})"
        return f"*(picture: {found[1] or 'without a name'})*"

    named = _PICTURE_TAG.sub("", _PICTURE.sub(shown, card))
    folded = _RECIPE.sub(r"<details><summary>Recipe</summary>\n\n\1\n\n</details>", named)
    return folded.strip() or "This model has no card."


def _addresses(info: ModelInfo) -> dict[str, str]:
    return {name: file_address(download(data, name)) for name, data in info.card_pictures.items()}


def _chart(found: Inspection) -> str:
    if found.code_counts is not None:
        return markup.columns("Codes by frequency in this image", found.code_counts, seen="positions with this code")
    return markup.histogram("Scaled latents of this image", found.histogram, seen="this image", expected="N(0, 1)")


def _table(found: Inspection) -> str:
    if found.codebook is not None:
        cells = [(_CODEBOOK[name], _figure(value)) for name, value in found.codebook.items()]
        return markup.table("Codebook", ("", "This image"), cells, meanings=_MEANINGS)
    rows = [
        (str(number), *(_cell(channel.get(name), decimals) for name, _, decimals in _CHANNEL))
        for number, channel in enumerate(found.channels, start=1)
    ]
    notes = ["Training: measured over the model's training images; a unit is a channel at a position."]
    return markup.table(
        "Channels", ("Channel", *(head for _, head, _ in _CHANNEL)), rows, notes=notes, meanings=_MEANINGS
    )


def _cell(value: float | None, decimals: int) -> str:
    return "\N{EN DASH}" if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
