"""Components that the tabs have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from latent_ae.app.files import download, gallery, numbered
from latent_ae.app.gradio_internals import pass_uploads_as_paths
from latent_ae.app.tabs import markup
from latent_ae.app.tabs.job import ASKS, QUICK
from latent_ae.io.image import Pixels
from latent_ae.service.service import Service

LATENTS = "Each channel is scaled to its own range; each code of a codebook has a colour."
"""below the title of pictures of latents"""


def controls() -> gr.Column:
    """The column of settings."""
    return gr.Column(scale=4, min_width=300, elem_classes="controls")


class ImageInput:
    """A box for an image, and in its place one for a file of numbers while the page's model takes numbers."""

    def __init__(
        self,
        label: str,
        service: Service,
        model: gr.Dropdown,
        *,
        height: int = 260,
        hint: str = "Drop an image here\n- or -\nChoose a file",
        value: str | None = None,
    ) -> None:
        """`value` is the path of an image that is there at first."""
        self._numbers = numbers = {info.id: info.pixel_format.numbers for info in service.models()}
        first = next(iter(numbers.values()))
        self.image = _upload(label, height, hint, value, visible=not first)
        self.components: list[gr.Image | gr.File] = [self.image]
        if any(numbers.values()):
            file = gr.File(label=f"{label} (a file of numbers: TIFF, NPY, DICOM, ...)", height=height, visible=first)
            self.components.append(pass_uploads_as_paths(file))
            model.change(self._visible, model, self.components, **QUICK)

    @property
    def uploads(self) -> list[Any]:
        """Events of a visitor's choice of a file."""
        return [component.upload for component in self.components]

    def path(self, model: str, paths: Sequence[str | None]) -> str | None:
        """The chosen file for a model; `paths` are the components' values."""
        return paths[1] if self._numbers.get(model) else paths[0]

    def _visible(self, model: str) -> list[Any]:
        numbers = self._numbers.get(model, False)
        return [gr.update(visible=not numbers), gr.update(visible=numbers)]


def _upload(label: str, height: int, hint: str, value: str | None, *, visible: bool) -> gr.Image:
    """A box for an image file."""
    image = gr.Image(
        value,
        label=label,
        visible=visible,
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


def example_files(paths: Sequence[Path]) -> list[str]:
    """Examples where every visitor's browser may fetch them."""
    return [download(path.read_bytes(), path.name) for path in paths]


def examples(files: Sequence[str], image: gr.Image, asked: gr.State) -> None:
    """Images to click, of which a new one starts the work that is `asked` for."""
    if not files:
        return
    shown = gr.Dataset(
        label="Examples",
        components=[gr.Image(render=False)],
        samples=[[file] for file in files],
        type="index",
        layout="gallery",
    )
    shown.click(lambda place, number: (files[place], number + 1), [shown, asked], [image, asked], **ASKS)


def pictures(title: str, *, columns: int, text: str = "", large: bool = False) -> gr.Gallery:
    """A gallery of lossless results below its title."""
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


def latents(images: Sequence[Pixels], *, codes: bool) -> dict[str, Any]:
    """An update that shows pictures of latent channels, or one of codes."""
    return gallery([(images[0], "codes")] if codes else numbered(images), name="latents", columns=8)


def picture(title: str) -> gr.Image:
    """One lossless result below its title."""
    gr.HTML(markup.title(title))
    return gr.Image(
        label=title,
        show_label=False,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        alt_text=title,
        elem_classes="picture",
    )
