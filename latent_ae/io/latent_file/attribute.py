"""The attribute file: what is added to an image's latents to change one property of it. A public contract.

    tensor    attribute  [c,h,w] float32, raw: the mean latents of one set of images minus those of another. [c,1,1] is
                         added to every position, so that it suits images of any size
    metadata  `latent_ae.schema` = 1, kind = attribute, encoder (its identity), factor, model, encoder_class, from and
              to (names of both sides), from_count and to_count (images in the means), heldout_from, heldout_to, auc
              and p_value (`Separation`), versions

Metadata are strings, as in the latent file. Nothing is allocated before the header's numbers have been checked.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latent_ae._version import __version__
from latent_ae.io.atomic import write_atomically
from latent_ae.io.latent_file.header import (
    LIMITS,
    SCHEMA,
    Limits,
    StoredTensor,
    file_header_text,
    open_latent_file,
    stored_tensor,
)
from latent_ae.io.latent_file.latents import WrongEncoder, serialised, tensor_of
from latent_ae.io.latent_file.metadata import PREFIX, TEXT_LENGTH, LatentFileError, Metadata, header_entries

CHANCE = 0.01
"""p-value above which an attribute is said not to separate"""
_WEAK_AUC = 0.75
_MOST_IMAGES = 1 << 40


@dataclass(frozen=True)
class Separation:
    """How well the projection on an attribute tells two sets of images apart that were not used for it."""

    auc: float
    """probability that an image of `to` projects further than one of `from`; 0.5 by chance"""
    p_value: float
    """probability of such an AUC or a larger one if the sides were assigned by chance (Mann-Whitney, one-sided)"""
    from_count: int
    to_count: int

    @property
    def separates(self) -> bool:
        """Whether chance is ruled out."""
        return self.p_value < CHANCE

    def __str__(self) -> str:
        """The verdict and its numbers, in a line."""
        images = f"{self.from_count} + {self.to_count} held-out images"
        if 1 / math.comb(self.from_count + self.to_count, self.to_count) >= CHANCE:
            return f"unknown whether it separates: {images} are too few to rule out chance (give more images)"
        found = f"AUC {self.auc:.3f} on {images}, chance gives 0.5, and this or more with p = {self.p_value:.2g}"
        if not self.separates:
            return f"does not separate: {found}"
        return f"separates{' weakly' * (self.auc < _WEAK_AUC)}: {found}"


@dataclass(frozen=True)
class Attribute:
    """A difference of mean latents, and what it was made of."""

    tensor: Tensor
    """[c,h,w] float32, raw; [c,1,1] for images of any size"""
    encoder: str
    """identity of the encoder whose latents it is added to: 64 hex digits"""
    factor: int
    """pixels of a latent position along a side"""
    from_name: str
    to_name: str
    from_count: int
    """images in the mean"""
    to_count: int
    separation: Separation
    model: str = ""
    """a name for people"""
    encoder_class: str = ""
    """of diffusers, as AutoencoderKL"""

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w); (1, 1) for images of any size."""
        return int(self.tensor.shape[-2]), int(self.tensor.shape[-1])

    def require_encoder(self, identity: str) -> None:
        """Raise WrongEncoder, with both identities, unless it is an attribute of the encoder `identity`."""
        if self.encoder != identity:
            known = ", ".join(filter(None, (self.model, self.encoder_class)))
            of = f" ({known})" if known else ""
            raise WrongEncoder(
                f"the attribute is of the encoder {self.encoder[:16]}{of}, the model's encoder is {identity[:16]}: "
                "take the model that it was made with, or make it again with this one"
            )


def write_attribute(path: Path, attribute: Attribute) -> None:
    """Write an attribute file, whole or not at all. Raises OSError."""
    measured = attribute.separation
    given: dict[str, object] = {
        "schema": SCHEMA,
        "kind": "attribute",
        "encoder": attribute.encoder,
        "factor": attribute.factor,
        "model": _printable(attribute.model),
        "encoder_class": attribute.encoder_class,
        "from": _printable(attribute.from_name),
        "to": _printable(attribute.to_name),
        "from_count": attribute.from_count,
        "to_count": attribute.to_count,
        "heldout_from": measured.from_count,
        "heldout_to": measured.to_count,
        "auc": measured.auc,
        "p_value": measured.p_value,
        "versions": {"latent_ae": __version__, "torch": torch.__version__},
    }
    strings = {PREFIX + name: text if isinstance(text, str) else json.dumps(text) for name, text in given.items()}
    write_atomically(path, serialised({"attribute": attribute.tensor.detach().cpu().float()}, strings))


def read_attribute(path: Path, *, limits: Limits = LIMITS) -> Attribute:
    """The attribute in a file. Raises LatentFileError for anything else, OSError if it cannot be read."""
    try:
        with open_latent_file(path) as file:
            text, body = file_header_text(file, limits=limits)
            stored, values = _checked(header_entries(text), body, limits)
            if len(data := file.read(body)) != body:
                raise LatentFileError("the file became shorter while it was read")
        return _attribute(tensor_of(stored, memoryview(data)), values)
    except LatentFileError as error:
        reason = str(error).removeprefix("not a latent file: ")
        raise LatentFileError(f"{path} is not an attribute file (latent-ae attribute writes them): {reason}") from None


def _checked(entries: dict[str, object], body: int, limits: Limits) -> tuple[StoredTensor, Metadata]:
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise LatentFileError("expected strings as metadata")
    values = Metadata(metadata)
    values.choice("kind", ("attribute",))
    values.choice("schema", (SCHEMA,))
    if entries.keys() != {"attribute"}:
        raise LatentFileError(f"expected one tensor, attribute, got {len(entries)}")
    stored = stored_tensor("attribute", entries["attribute"], {"F32": 4})
    if len(stored.shape) != 3 or min(stored.shape) < 1 or (stored.start, stored.end) != (0, body):
        raise LatentFileError(f"expected attribute as [c,h,w] in {body} bytes, got {list(stored.shape)}")
    if body > limits.tensor_bytes:
        raise LatentFileError(f"its tensor takes {body} bytes, more than the {limits.tensor_bytes} that are read")
    return stored, values


def _attribute(tensor: Tensor, values: Metadata) -> Attribute:
    auc, p_value = (values.number(name) for name in ("auc", "p_value"))
    if auc is None or p_value is None or not (0 <= auc <= 1 and 0 <= p_value <= 1):
        raise LatentFileError(f"its auc and p_value are {auc} and {p_value}, expected 0 to 1")
    heldout = [values.integer(f"heldout_{side}", 1, _MOST_IMAGES) for side in ("from", "to")]
    return Attribute(
        tensor=tensor,
        encoder=values.identity("encoder"),
        factor=values.integer("factor", 1, LIMITS.factor),
        from_name=values.text("from"),
        to_name=values.text("to"),
        from_count=values.integer("from_count", 1, _MOST_IMAGES),
        to_count=values.integer("to_count", 1, _MOST_IMAGES),
        separation=Separation(auc, p_value, *heldout),
        model=values.text("model"),
        encoder_class=values.text("encoder_class"),
    )


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:TEXT_LENGTH]
