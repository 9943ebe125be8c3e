"""Latents whose file names no encoder or another one, taken as those of a model that the user names.

ComfyUI writes `latent_tensor` alone, [N,c,h,w] or with a time axis [N,c,T,h,w], raw where `latent_format_version_0`
lies beside it. Files without that marker are older and hold latents times 0.18215, which its loader and this one undo.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from latent_ae.io.latent_file.header import (
    FLOATS,
    MARKER,
    StoredTensor,
    file_header_text,
    header_text,
    open_latent_file,
    stored_tensor,
)
from latent_ae.io.latent_file.latents import (
    LIMITS,
    LatentFileError,
    Latents,
    Limits,
    UnknownEncoder,
    from_bytes,
    tensor_of,
)
from latent_ae.io.latent_file.metadata import header_entries
from latent_ae.io.pixel_format import PixelFormat

SCALE_WITHOUT_MARKER = 0.18215


@dataclass(frozen=True)
class LatentForm:
    """What the latents of a model look like."""

    model: str
    """a name for people"""
    encoder: str
    """identity, 64 hex digits"""
    factor: int
    channels: int
    codebook_size: int | None
    """of a VQModel, whose latents are codes"""
    pixel_format: PixelFormat | None = None
    """of the images; None for grey or RGB pictures"""


class Taken(NamedTuple):
    """Latents of the model that was named."""

    latents: Latents
    note: str
    """what was assumed, a line; '' where the file itself names the model's encoder"""


def take_latents(data: bytes, form: LatentForm, *, limits: Limits = LIMITS) -> Taken:
    """A latent file's contents, or another program's, as latents of a model of this form.

    Raises LatentFileError for what is neither, and for latents of another form.
    """
    try:
        latents = from_bytes(data, limits=limits)
    except UnknownEncoder:
        return _take_bare(data, form, limits)
    if latents.encoder == form.encoder:
        return Taken(latents, "")
    codes = latents.kind == "vq_indices"
    _check_form(form, None if codes else latents.tensor.shape[1], latents.codebook_size, latents.factor)
    encoder = f"{latents.encoder[:16]} ({latents.model})" if latents.model else latents.encoder[:16]
    note = f"taken as latents of {form.model}, although the file says that the encoder {encoder} made them"
    return Taken(dataclasses.replace(latents, encoder=form.encoder, pixel_format=form.pixel_format), note)


def bare_image_count(path: Path) -> int:
    """How many images another program's file holds. Raises LatentFileError, OSError."""
    with open_latent_file(path) as file:
        return _bare_tensor(*file_header_text(file, limits=LIMITS), LIMITS)[0].shape[0]


def _take_bare(data: bytes, form: LatentForm, limits: Limits) -> Taken:
    text, body = header_text(data, limits=limits)
    stored, marked = _bare_tensor(text, body, limits)
    _check_form(form, stored.shape[1], None, form.factor)
    tensor = tensor_of(stored, memoryview(data)[8 + len(text) :]).float()
    note = f"taken as raw latents of {form.model}: the file does not say which encoder made them"
    if not marked:
        tensor *= 1.0 / SCALE_WITHOUT_MARKER
        note = (
            f"taken as latents of {form.model} times {SCALE_WITHOUT_MARKER}, as ComfyUI takes a file without "
            f"{MARKER}, and divided by it: the file does not say which encoder made them"
        )
    h, w = stored.shape[-2:]
    latents = Latents(
        kind="mean",
        tensor=tensor.reshape(*stored.shape[:2], h, w),
        encoder=form.encoder,
        height=h * form.factor,
        width=w * form.factor,
        factor=form.factor,
        pixel_format=form.pixel_format,
    )
    return Taken(latents, note)


def _bare_tensor(text: bytes, body: int, limits: Limits) -> tuple[StoredTensor, bool]:
    """`latent_tensor` of another program, and whether the marker is there; what else is in the file does not matter."""
    entries = header_entries(text)
    stored = stored_tensor("latent_tensor", entries["latent_tensor"], FLOATS)
    shape = stored.shape
    if len(shape) not in (4, 5) or min(shape) < 1:
        raise LatentFileError(f"latent_tensor has the shape {list(shape)}, expected [N,c,h,w] or [N,c,1,h,w]")
    if len(shape) == 5 and shape[2] != 1:
        raise LatentFileError(
            f"latent_tensor {list(shape)} is of a video, {shape[2]} steps of time: an image autoencoder decodes one; "
            "cut one out and save it as [N,c,h,w]"
        )
    if stored.end > body:
        raise LatentFileError(f"a latent file cut short: {body} bytes of tensors, its header promises {stored.end}")
    if (size := stored.end - stored.start) > limits.tensor_bytes:
        raise LatentFileError(f"the latents take {size} bytes, more than the {limits.tensor_bytes} that are read")
    if shape[0] > limits.images:
        raise LatentFileError(f"a latent file of {shape[0]} images, more than the {limits.images} that are read")
    return stored, MARKER in entries


def _check_form(form: LatentForm, channels: int | None, codebook_size: int | None, factor: int) -> None:
    """Raise LatentFileError for latents that a model of this form cannot decode."""
    expected = _words(None if form.codebook_size else form.channels, form.codebook_size, form.factor)
    if (got := _words(channels, codebook_size, factor)) != expected:
        raise LatentFileError(f"the file holds {got}, the model {form.model} takes {expected}: name another model")


def _words(channels: int | None, codebook_size: int | None, factor: int) -> str:
    what = f"codes of a codebook of {codebook_size}" if codebook_size else f"latents of {channels} channels"
    return f"{what} at a factor of {factor}"
