"""Several models on one image: what each stores of it, and how close it comes to the image as it was given to it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.service import catalog
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.errors import BadRequest, Busy, ServiceError, ShuttingDown
from latent_ae.service.queue import Tick
from latent_ae.service.results import Reconstruction, Size, code_bits

_FLOAT_BITS = 16
"""of a number of the smallest form of latents"""


@dataclass(frozen=True)
class Compared:
    """One model's share of a comparison."""

    model: str
    made: Reconstruction | None
    """None if the model cannot take the image"""
    refusal: ServiceError | None = None
    """why not"""

    @property
    def compared_in(self) -> str:
        """What both images are: "colour", "grey", or the pixel format of a model of other images; '' if refused."""
        if self.made is None:
            return ""
        form = self.made.pixel_format
        return {1: "grey", 3: "colour"}[form.channels] if form.is_default else form.describe()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stored numbers or codes; () if refused."""
        return () if self.made is None else tuple(self.made.encoded.latents.tensor.shape[1:])

    @property
    def bits_per_number(self) -> int:
        """Of each stored number, in float16, or of each code; 0 if refused."""
        if self.made is None:
            return 0
        size = self.made.encoded.latents.codebook_size
        return _FLOAT_BITS if size is None else code_bits(size)

    @property
    def stored(self) -> Size | None:
        """The smallest form of the latents."""
        return None if self.made is None else min(self.made.sizes[1:], key=lambda size: size.bytes)


def chosen(infos: Mapping[str, ModelInfo], models: Sequence[str] | None) -> list[str]:
    """The ids of the requested models, each once; all if None. Raises UnknownModel, BadRequest for none."""
    if models is None:
        return list(infos)
    if not models:
        raise BadRequest("models is empty: name at least one, or leave it out for all")
    return list(dict.fromkeys(catalog.choose(infos, model) for model in models))


def compare(
    reconstruct: Callable[..., Reconstruction], models: Sequence[str], tick: Tick | None
) -> tuple[Compared, ...]:
    """`reconstruct(model=, tick=)` for each model, one after another.

    A model that refuses the image has the reason in its place. Raises what ends the whole request (Busy, ShuttingDown),
    what `tick` raises, and the first refusal if no model takes the image.
    """

    def part(done: int, share: float) -> None:
        if tick is not None:
            tick((done + share) / len(models))

    found: list[Compared] = []
    originals: dict[PixelFormat, Array] = {}  # the same for all models of a format: kept once
    for done, model in enumerate(models):
        try:
            made = reconstruct(model=model, tick=functools.partial(part, done))
        except (Busy, ShuttingDown):
            raise
        except ServiceError as error:
            found.append(Compared(model, None, error))
        else:
            original = originals.setdefault(made.pixel_format, made.original)
            found.append(Compared(model, dataclasses.replace(made, original=original)))
    if found[0].refusal is not None and all(row.made is None for row in found):
        raise found[0].refusal
    return tuple(found)
