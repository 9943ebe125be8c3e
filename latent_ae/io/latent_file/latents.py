"""The latent file: images as latents, in safetensors that other programs open too. A public contract.

    tensors   latent_tensor            [N,c,h,w] raw, float32, float16 or bfloat16
              latent_logvar            [N,c,h,w], if it was kept
              latent_format_version_0  empty: tells ComfyUI that the latents are raw
        or    indices                  [N,h,w] uint16, int32 for codebooks of more than 65,536 codes
    metadata  `latent_ae.schema` = 1, kind, encoder (its identity), height, width, factor, codebook_size,
              scaling_factor and shift_factor (recorded, not applied), seed, sources, model, versions, `encoder_class`
              and `compute`, how the encoder ran (missing in older files), and `pixel_format` of images that are not
              grey or RGB pictures

Metadata are strings: words as they are, the rest as JSON. All N images of a file have one size. Latents cover it from
the upper left; what stands over at the bottom and right is padding. Reading needs no model, and nothing is allocated
before the header's numbers have been checked (`latent_header`). Equal latents give equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from latent_ae._version import __version__
from latent_ae.errors import UserError
from latent_ae.io.atomic import write_atomically
from latent_ae.io.latent_file.header import (
    FLOATS,
    FOREIGN_ADVICE,
    LIMITS,
    MARKER,
    SCHEMA,
    SMALL_CODEBOOK,
    SUFFIX,
    SUFFIXES,
    Header,
    Kind,
    Limits,
    StoredTensor,
    UnknownEncoder,
    describe,
    open_latent_file,
    read_file_header,
    read_header,
)
from latent_ae.io.latent_file.metadata import PREFIX, TEXT_LENGTH, Compute, LatentFileError
from latent_ae.io.pixel_format import PixelFormat

__all__ = [
    "DTYPES",
    "LIMITS",
    "SCHEMA",
    "SUFFIX",
    "SUFFIXES",
    "Compute",
    "Dtype",
    "Header",
    "Kind",
    "LatentFileError",
    "Latents",
    "Limits",
    "UnknownEncoder",
    "WrongEncoder",
    "describe",
    "from_bytes",
    "read_file_header",
    "read_header",
    "read_latents",
    "tensor_of",
    "to_bytes",
    "write_latents",
]

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

_STORED = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint16: "U16",
    torch.int32: "I32",
}
_TORCH = {name: dtype for dtype, name in _STORED.items()}


class WrongEncoder(LatentFileError):  # noqa: N818 - a fact about a pair of files
    """Latents of one encoder were given to the decoder of another."""


@dataclass(frozen=True)
class Latents:
    """Latents of N images of one size, and what it takes to decode them."""

    kind: Kind
    """`mean` or `sample` of the posterior, or `vq_indices`"""
    tensor: Tensor
    """[N,c,h,w] raw floats, or with `vq_indices` [N,h,w] int64"""
    encoder: str
    """identity of the encoder that made them: 64 hex digits"""
    height: int
    """of the images in pixels, after rotation by their orientation tag"""
    width: int
    factor: int
    """pixels of a latent position along a side"""
    logvar: Tensor | None = None
    """[N,c,h,w] of the posterior"""
    codebook_size: int | None = None
    """None without a codebook"""
    scaling_factor: float | None = None
    """of the model's config: recorded, not applied"""
    shift_factor: float | None = None
    """likewise"""
    seed: int | None = None
    """of the draw, with `sample`; None if it is not known"""
    sources: tuple[str, ...] = ()
    """sha256 of the N files, in hex; empty if not known"""
    model: str = ""
    """a name for people"""
    encoder_class: str = ""
    """of diffusers, as AutoencoderKL; empty if it is not known"""
    versions: Mapping[str, str] = field(default_factory=dict)
    """of the libraries that made them"""
    compute: Compute | None = None
    """how the encoder ran; None if it is not known"""
    pixel_format: PixelFormat | None = None
    """of the images; None for grey or RGB pictures"""

    @property
    def count(self) -> int:
        """N."""
        return len(self.tensor)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return int(self.tensor.shape[-2]), int(self.tensor.shape[-1])

    @property
    def padding(self) -> tuple[int, int]:
        """Rows at the bottom and columns at the right that the latents cover beyond the image, in pixels."""
        h, w = self.grid
        return h * self.factor - self.height, w * self.factor - self.width

    def save(self, path: str | Path, *, dtype: Dtype = "float32") -> None:
        """Write a latent file; `dtype` is that of the stored floats.

        Raises LatentFileError for values that are not finite in that dtype, OSError.
        """
        write_latents(Path(path), self, dtype=dtype)

    @classmethod
    def load(cls, path: str | Path) -> "Latents":
        """Read a latent file. Raises LatentFileError for anything else, OSError if it cannot be read."""
        return read_latents(Path(path))

    def require_encoder(self, identity: str) -> None:
        """Raise WrongEncoder, with both identities, unless these are latents of the encoder `identity`."""
        if self.encoder != identity:
            known = ", ".join(filter(None, (self.model, self.encoder_class)))
            of = f" ({known})" if known else ""
            raise WrongEncoder(
                f"these latents are of the encoder {self.encoder[:16]}{of}, the model's encoder is {identity[:16]}: "
                f"decode them with the model that made them; {FOREIGN_ADVICE}"
            )

    def require_pixels(self, pixel_format: PixelFormat) -> None:
        """Raise LatentFileError unless these are latents of images of a model's pixel format."""
        channels, own = pixel_format.channels, self.pixel_format
        if own is None and channels in (1, 3):
            own = PixelFormat.picture(channels)
        if own is None or not own.decodes_as(pixel_format):
            what = "grey or RGB" if own is None else own.describe()
            raise LatentFileError(
                f"these latents are of images of {what}, the model's are of {pixel_format.describe()}: decode them "
                "with the model that made them"
            )


def to_bytes(latents: Latents, *, dtype: Dtype = "float32") -> bytes:
    """The contents of a latent file; `dtype` is of the floats in it.

    Raises LatentFileError if a value is not finite or becomes so in float16, if a code is not in the codebook, and for
    anything else that `from_bytes` would refuse.
    """
    tensors: dict[str, Tensor] = {}
    if latents.kind == "vq_indices":
        _check_codes(latents.tensor, latents.codebook_size)
        small = (latents.codebook_size or 0) <= SMALL_CODEBOOK
        tensors["indices"] = latents.tensor.detach().cpu().to(torch.uint16 if small else torch.int32)
    else:
        tensors["latent_tensor"] = _to_store(latents.tensor, dtype)
        if latents.logvar is not None:
            tensors["latent_logvar"] = _to_store(latents.logvar, dtype)
        tensors[MARKER] = torch.empty(0)
    data = serialised(tensors, _metadata(latents))
    read_header(data, limits=LIMITS)
    return data


def from_bytes(data: bytes, *, limits: Limits = LIMITS) -> Latents:
    """The latents in the contents of a latent file, floats as they were stored.

    Raises LatentFileError for anything else, and for values that are not finite or not in the codebook.
    """
    header = read_header(data, limits=limits)
    return _latents(header, memoryview(data)[header.length :])


def write_latents(path: Path, latents: Latents, *, dtype: Dtype = "float32") -> None:
    """Write a latent file, whole or not at all. Raises LatentFileError as `to_bytes` does, OSError."""
    write_atomically(path, to_bytes(latents, dtype=dtype))


def read_latents(path: Path, *, limits: Limits = LIMITS) -> Latents:
    """The latents in a file. Raises LatentFileError, OSError if it cannot be read."""
    with open_latent_file(path) as file:
        header = read_file_header(file, limits=limits)
        promised = sum(tensor.end - tensor.start for tensor in header.tensors.values())
        if len(data := file.read(promised)) != promised:
            raise LatentFileError("the latent file became shorter while it was read")
    return _latents(header, memoryview(data))


def _to_store(values: Tensor, dtype: Dtype) -> Tensor:
    stored = values.detach().cpu().to(DTYPES[dtype])
    if not bool(stored.isfinite().all()):
        if not bool(values.isfinite().all()):
            raise LatentFileError("the latents hold values that are not finite: nothing can decode them")
        raise LatentFileError(f"the latents hold values that {dtype} cannot: store them in float32 or bfloat16")
    return stored


def _check_codes(codes: Tensor, codebook_size: int | None) -> None:
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < (codebook_size or 0):
        raise LatentFileError(
            f"the latents hold the codes {int(codes.min())} to {int(codes.max())}, expected codes of a codebook of "
            f"{codebook_size}"
        )


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. Its own library writes metadata in an order that changes from one process to the next."""
    header: dict[str, object] = {"__metadata__": metadata}
    parts: list[bytes] = []
    reached = 0
    for name, tensor in tensors.items():
        part = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        place = [reached, reached := reached + len(part)]
        header[name] = {"dtype": _STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        parts.append(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _metadata(latents: Latents) -> dict[str, str]:
    given: dict[str, object] = {
        "schema": SCHEMA,
        "kind": latents.kind,
        "encoder": latents.encoder,
        "height": latents.height,
        "width": latents.width,
        "factor": latents.factor,
        "codebook_size": latents.codebook_size,
        "scaling_factor": None if latents.scaling_factor is None else float(latents.scaling_factor),
        "shift_factor": None if latents.shift_factor is None else float(latents.shift_factor),
        "seed": latents.seed,
        "sources": list(latents.sources),
        # For people: a name that no terminal could show is not worth refusing the latents for.
        "model": "".join(letter if letter.isprintable() else "?" for letter in latents.model)[:TEXT_LENGTH],
        "versions": {"latent_ae": __version__, "torch": torch.__version__, **latents.versions},
    }
    if latents.encoder_class:
        given["encoder_class"] = latents.encoder_class
    if latents.compute is not None:
        given["compute"] = latents.compute.to_json()
    if latents.pixel_format is not None:
        given["pixel_format"] = latents.pixel_format.to_json()
    # Words as they are, the rest as JSON: safetensors keeps strings alone.
    return {PREFIX + name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def _latents(header: Header, data: memoryview) -> Latents:
    main = tensor_of(header.main, data)
    logvar = header.tensors.get("latent_logvar")
    pixel_format = None
    if header.pixel_format is not None:
        try:
            pixel_format = PixelFormat.from_json(json.dumps(header.pixel_format), f"{PREFIX}pixel_format")
        except UserError as error:
            raise LatentFileError(f"not a latent file: {error}") from None
    if header.kind == "vq_indices":
        main = main.to(torch.int64)
        _check_codes(main, header.codebook_size)
    return Latents(
        kind=header.kind,
        tensor=main,
        encoder=header.encoder,
        height=header.height,
        width=header.width,
        factor=header.factor,
        logvar=None if logvar is None else tensor_of(logvar, data),
        codebook_size=header.codebook_size,
        scaling_factor=header.scaling_factor,
        shift_factor=header.shift_factor,
        seed=header.seed,
        sources=header.sources,
        model=header.model,
        encoder_class=header.encoder_class,
        compute=header.compute,
        pixel_format=pixel_format,
        versions=header.versions,
    )


def tensor_of(stored: StoredTensor, data: memoryview) -> Tensor:
    """A stored tensor from the bytes behind the header. Raises LatentFileError for floats that are not finite."""
    # A copy: the bytes may lie at any address, and belong to somebody else.
    values = torch.frombuffer(bytearray(data[stored.start : stored.end]), dtype=_TORCH[stored.dtype])
    if stored.dtype in FLOATS and not bool(values.isfinite().all()):
        raise LatentFileError(
            f"the latents hold values that are not finite, as {stored.dtype}: nothing can decode them"
        )
    return values.view(stored.shape)
