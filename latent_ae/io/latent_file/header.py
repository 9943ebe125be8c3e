"""The header of a latent file, checked before anything is allocated. Needs no torch.

A safetensors file is a length (8 bytes, little-endian), a JSON object of that length, and the tensors' bytes. The
object gives for each tensor its dtype, shape and place, and under `__metadata__` strings by name. See `latent_file` for
which tensors and strings a latent file has.
"""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast, get_args

from latent_ae.io.latent_file.metadata import (
    PREFIX,
    Compute,
    LatentFileError,
    Metadata,
    header_entries,
    shown,
    whole_numbers,
)

SCHEMA = "1"
SUFFIX = ".safetensors"
SUFFIXES = frozenset({SUFFIX, ".latent"})
"""of files that may be latent files; ComfyUI's end in .latent"""
MARKER = "latent_format_version_0"
Kind = Literal["mean", "sample", "vq_indices"]
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
CODES = {"U16": 2, "I32": 4}
"""bytes of a value by safetensors' name of its type"""
SMALL_CODEBOOK = 1 << 16
"""codes that uint16 tells apart"""
FOREIGN_ADVICE = (
    "if you know that a model fits, name it and decode with --foreign (foreign=true at a server), else encode the "
    "images again"
)


class UnknownEncoder(LatentFileError):  # noqa: N818 - a fact about a file
    """Latents that do not say which encoder made them: another program wrote the file."""


@dataclass(frozen=True)
class Limits:
    """What a latent file may hold, checked on its header."""

    header_bytes: int = 1 << 20
    tensor_bytes: int = 1 << 28
    images: int = 4096
    side: int = 65_536
    """of the images, in pixels"""
    factor: int = 1024
    codebook_size: int = 1 << 24


LIMITS = Limits()


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file, and as what."""

    dtype: str
    """safetensors' name: F32, F16, BF16, U16, I32"""
    shape: tuple[int, ...]
    start: int
    end: int
    """in bytes from the end of the header"""


@dataclass(frozen=True)
class Header:
    """A latent file's header, every value of it checked; the fields are those of `latent_file.Latents`."""

    kind: Kind
    encoder: str
    height: int
    width: int
    factor: int
    codebook_size: int | None
    scaling_factor: float | None
    shift_factor: float | None
    seed: int | None
    sources: tuple[str, ...]
    model: str
    encoder_class: str
    compute: Compute | None
    pixel_format: Mapping[str, object] | None
    versions: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    length: int
    """bytes before the tensors"""

    @property
    def main(self) -> StoredTensor:
        """The latents or the codes."""
        return self.tensors["indices" if self.kind == "vq_indices" else "latent_tensor"]


def read_header(data: bytes, *, limits: Limits) -> Header:
    """The header of a latent file's contents. Raises LatentFileError."""
    return parse_header(*header_text(data, limits=limits), limits=limits)


def read_file_header(file: BinaryIO, *, limits: Limits) -> Header:
    """The header of a latent file on a disk, which is left behind it. Raises LatentFileError, OSError."""
    return parse_header(*file_header_text(file, limits=limits), limits=limits)


def header_text(data: bytes, *, limits: Limits) -> tuple[bytes, int]:
    """The JSON of a safetensors file's contents, and how many bytes follow it. Raises LatentFileError."""
    length = _length(data[:8], len(data), limits)
    return data[8 : 8 + length], len(data) - 8 - length


def file_header_text(file: BinaryIO, *, limits: Limits) -> tuple[bytes, int]:
    """The same of a file on a disk, which is left behind its JSON. Raises LatentFileError, OSError."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise LatentFileError("not a latent file: it is no ordinary file")
    length = _length(file.read(8), status.st_size, limits)
    return file.read(length), status.st_size - 8 - length


def open_latent_file(path: Path) -> BinaryIO:
    """The file, open to be read. Raises LatentFileError for a folder, a pipe or a device, OSError."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for somebody to write
        raise LatentFileError("not a latent file: it is no ordinary file")
    return path.open("rb")


def describe(path: Path, *, limits: Limits = LIMITS) -> dict[str, object]:
    """What a latent file's header says, ready for JSON; the values themselves are not read.

    Raises LatentFileError if it is not a latent file, OSError if it cannot be read.
    """
    with open_latent_file(path) as file:
        header = read_file_header(file, limits=limits)
    main, logvar = header.main, header.tensors.get("latent_logvar")
    codes = header.kind == "vq_indices"
    h, w = main.shape[-2:]
    return {
        "kind": header.kind,
        "images": main.shape[0],
        "height": header.height,
        "width": header.width,
        "grid": [h, w],
        "channels": None if codes else main.shape[1],
        "factor": header.factor,
        "padding": [h * header.factor - header.height, w * header.factor - header.width],
        "dtype": main.dtype,
        "logvar_dtype": logvar.dtype if logvar else None,
        "codebook_size": header.codebook_size,
        "seed": header.seed,
        "bytes": header.length + sum(tensor.end - tensor.start for tensor in header.tensors.values()),
        "bits_per_pixel": 8 * (main.end - main.start) / (main.shape[0] * header.height * header.width),
        "compute": None if header.compute is None else header.compute.to_json(),
        "pixel_format": header.pixel_format,
        "encoder": header.encoder,
        "encoder_class": header.encoder_class or None,
        "model": header.model,
        "scaling_factor": header.scaling_factor,
        "shift_factor": header.shift_factor,
        "sources": list(header.sources),
        "versions": dict(header.versions),
    }


def parse_header(text: bytes, body: int, *, limits: Limits) -> Header:
    """The header from its JSON; `body` is how many bytes follow it. Raises LatentFileError."""
    entries = header_entries(text)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise LatentFileError(f"not a latent file: expected strings as metadata, got {shown(metadata)}")
    _check_schema(metadata, entries)
    values = Metadata(metadata)
    kind = values.choice("kind", get_args(Kind))
    codes = kind == "vq_indices"
    tensors = _tensors(entries, codes=codes)
    _check_places(tensors, body, limits)
    main = tensors["indices" if codes else "latent_tensor"]
    header = Header(
        kind=cast("Kind", kind),
        encoder=values.identity("encoder"),
        height=values.integer("height", 1, limits.side),
        width=values.integer("width", 1, limits.side),
        factor=values.integer("factor", 1, limits.factor),
        codebook_size=values.integer("codebook_size", 1, limits.codebook_size) if codes else None,
        scaling_factor=values.number("scaling_factor"),
        shift_factor=values.number("shift_factor"),
        seed=values.seed("seed") if kind == "sample" else None,
        sources=values.sources("sources", main.shape[0]),
        model=values.text("model"),
        encoder_class=values.text("encoder_class", missing=""),
        compute=values.compute("compute"),
        pixel_format=values.pixel_format("pixel_format"),
        versions=values.texts("versions"),
        tensors=tensors,
        length=8 + len(text),
    )
    _check_size(header, limits)
    return header


def _length(start: bytes, total: int, limits: Limits) -> int:
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > total - 8:
        raise LatentFileError(f"not a latent file, or one cut short: {total} bytes, which do not hold its header")
    if length > limits.header_bytes:
        raise LatentFileError(f"not a latent file: a header of {length} bytes, expected at most {limits.header_bytes}")
    return length


def _check_schema(metadata: Mapping[str, str], entries: Mapping[str, object]) -> None:
    schema = metadata.get(f"{PREFIX}schema")
    if schema == SCHEMA:
        return
    if schema is not None:
        raise LatentFileError(
            f"a latent file of schema {shown(schema)}; this program reads schema {SCHEMA}: update latent_ae"
        )
    if "latent_tensor" in entries:
        raise UnknownEncoder(
            "latents that do not say which encoder made them (a plain ComfyUI .latent file, for instance): "
            f"{FOREIGN_ADVICE}"
        )
    names = ", ".join(shown(name) for name in list(entries)[:3]) or "no tensors"
    raise LatentFileError(f"not a latent file: expected metadata {PREFIX}schema, got a file with {names}")


def _tensors(entries: Mapping[str, object], *, codes: bool) -> dict[str, StoredTensor]:
    needed = {"indices"} if codes else {"latent_tensor", MARKER}
    allowed = needed if codes else needed | {"latent_logvar"}
    if missing := needed - entries.keys():
        raise LatentFileError(f"not a latent file: it has no tensor {', '.join(sorted(missing))}")
    if extra := [name for name in entries if name not in allowed]:
        raise LatentFileError(
            f"not a latent file: {len(extra)} tensors too many, among them {shown(extra[0])}; "
            f"expected {', '.join(sorted(allowed))}"
        )
    tensors = {name: stored_tensor(name, entry, CODES if codes else FLOATS) for name, entry in entries.items()}
    for name, tensor in tensors.items():
        sides = 1 if name == MARKER else 3 if codes else 4
        if len(tensor.shape) != sides or (min(tensor.shape) < 1) != (name == MARKER):
            expected = "[0]" if name == MARKER else f"{sides} sides of at least 1"
            raise LatentFileError(f"not a latent file: {name} has the shape {shown(tensor.shape)}, expected {expected}")
    if "latent_logvar" in tensors and tensors["latent_logvar"].shape != tensors["latent_tensor"].shape:
        shapes = [list(tensors[name].shape) for name in ("latent_logvar", "latent_tensor")]
        raise LatentFileError(f"not a latent file: latent_logvar is {shapes[0]} beside a latent_tensor of {shapes[1]}")
    return tensors


def stored_tensor(name: str, entry: object, dtypes: Mapping[str, int]) -> StoredTensor:
    """A tensor's entry, of one of `dtypes`, which are bytes by name. Raises LatentFileError."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise LatentFileError(f"not a latent file: expected dtype, shape and data_offsets of {name}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise LatentFileError(f"not a latent file: {name} is {shown(dtype)}, expected one of {', '.join(dtypes)}")
    if not (whole_numbers(shape, most=5) and whole_numbers(offsets, most=2) and len(offsets) == 2):
        raise LatentFileError(
            f"not a latent file: {name} has the shape {shown(shape)} and lies at {shown(offsets)}, expected at most "
            "5 and exactly 2 whole numbers of at least 0"
        )
    start, end = offsets
    if end - start != (expected := math.prod(shape) * dtypes[dtype]):
        raise LatentFileError(
            f"not a latent file: {name} of {dtype} {shown(shape)} takes {shown(end - start)} bytes, "
            f"expected {shown(expected)}"
        )
    return StoredTensor(dtype, tuple(shape), start, end)


def _check_places(tensors: Mapping[str, StoredTensor], body: int, limits: Limits) -> None:
    reached = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != reached:
            raise LatentFileError("not a latent file: its tensors overlap or leave holes")
        reached = tensor.end
    if reached != body:
        what = "cut short" if reached > body else "with something behind its tensors"
        raise LatentFileError(f"a latent file {what}: {body} bytes of tensors, its header promises {shown(reached)}")
    if reached > limits.tensor_bytes:
        raise LatentFileError(f"the latents take {reached} bytes, more than the {limits.tensor_bytes} that are read")


def _check_size(header: Header, limits: Limits) -> None:
    shape = header.main.shape
    if shape[0] > limits.images:
        raise LatentFileError(f"a latent file of {shape[0]} images, more than the {limits.images} that are read")
    for what, size, steps in (("height", header.height, shape[-2]), ("width", header.width, shape[-1])):
        if not 0 <= steps * header.factor - size < header.factor:
            raise LatentFileError(
                f"not a latent file: {steps} latent positions of {header.factor} pixels cannot come from "
                f"an image {what} of {size}"
            )
    if header.main.dtype == "U16" and (header.codebook_size or 0) > SMALL_CODEBOOK:
        raise LatentFileError(f"not a latent file: codes of {header.codebook_size} do not fit into U16, expected I32")
