"""Files from and for the browser: uploads as they are, downloads, lossless pictures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from latent_ae.app import gradio_internals, storage
from latent_ae.io.image import Pixels, to_pil
from latent_ae.io.image_writing import image_bytes, suffixes_for
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.service.errors import BadRequest

_COLUMNS = 3
"""least number of a gallery's columns: a single picture must not fill the page"""
_FRAME_MS, _END_MS = 90, 600
"""of an animation: the ends are shown longer than the frames between"""


def chosen(path: str | None, what: str) -> Path:
    """An upload's path. Raises BadRequest if nothing was chosen; `what` is missing then."""
    if not path:
        raise BadRequest(f"there is no {what} yet: choose one first")
    return Path(path)


def download(data: bytes, name: str) -> str:
    """Put a file where this visitor's browser may fetch it, and return its path."""
    return str(storage.put(gradio_internals.upload_folder(), name, data))


def png(pixels: Pixels, name: str) -> str:
    """`download` of a picture [H, W, 1 or 3]; `name` has no suffix."""
    stream = io.BytesIO()
    to_pil(pixels).save(stream, format="PNG", compress_level=3)
    return download(stream.getvalue(), f"{name}.png")


def whole(image: Array, pixels: PixelFormat, name: str) -> str:
    """`download` of an image with all of its channels and bits, in the usual format that holds them."""
    suffix = suffixes_for(pixels)[0]
    return download(image_bytes(suffix, image, pixels), f"{name}{suffix}")


def numbered(images: Sequence[Pixels]) -> list[tuple[Pixels, str]]:
    """Pictures with the captions 1, 2, ..."""
    return [(image, str(number)) for number, image in enumerate(images, start=1)]


def gallery(pictures: Sequence[tuple[Pixels | str, str]], *, columns: int, name: str = "picture") -> dict[str, Any]:
    """An update that shows pictures, or files of them, with their captions, in at most `columns` columns."""
    named = [
        (picture if isinstance(picture, str) else png(picture, f"{name}-{number}"), caption)
        for number, (picture, caption) in enumerate(pictures, start=1)
    ]
    return gr.update(value=named, columns=min(columns, max(len(named), _COLUMNS)))


def animation(frames: Sequence[Pixels]) -> bytes:
    """An endless animated PNG of frames of one size [H, W, 1 or 3], forward and back; no pixel is changed."""
    back = frames[-2:0:-1]
    first, *others = [to_pil(frame) for frame in (*frames, *back)]
    forward = [_END_MS, *[_FRAME_MS] * len(back), _END_MS][: len(frames)]
    duration = [*forward, *[_FRAME_MS] * len(back)]
    stream = io.BytesIO()
    first.save(stream, format="PNG", save_all=True, append_images=others, duration=duration, loop=0)
    return stream.getvalue()
