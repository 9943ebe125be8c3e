"""A shard on the disk: latents in a safetensors file, and beside it a record of what is in it.

    shards/00000.safetensors   mean.HxW and logvar.HxW [n,c,h,w], or indices.HxW [n,h,w], for every grid h x w there is
    shards/00000.json          its record, written after it: a shard without one is not there

Both follow from the images of the shard alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from latent_ae.atomic import write_atomically
from latent_ae.latent_dataset.errors import LatentDatasetError

FOLDER = "shards"


@dataclass(frozen=True)
class Record:
    """What a shard holds. Everything in it is JSON."""

    sha256: str
    """of the safetensors file"""
    size: int
    """of the safetensors file, in bytes"""
    rows: list[dict[str, Any]]
    """a row of the index each"""
    skipped: list[dict[str, str]]
    """{"id": name, "reason"} of images that could not be used"""
    nonfinite_images: int
    """among them, for values that are not finite"""
    nonfinite_values: int
    statistics: dict[str, Any] | None
    """LatentSums or CodeSums; None without a row"""


def file_name(number: int) -> str:
    """The latents of shard `number`, relative to the folder."""
    return f"{FOLDER}/{number:05d}.safetensors"


def shard_file(folder: Path, number: int) -> Path:
    """Where the latents of shard `number` are."""
    return folder / file_name(number)


def record_file(folder: Path, number: int) -> Path:
    """Where the record of shard `number` is."""
    return folder / FOLDER / f"{number:05d}.json"


def is_there(folder: Path, number: int) -> bool:
    """Whether a shard is complete, as far as its size tells."""
    file = shard_file(folder, number)
    if not record_file(folder, number).is_file() or not file.is_file():
        return False
    try:
        return file.stat().st_size == read_record(folder, number).size
    except LatentDatasetError:
        return False  # it is made anew


def read_record(folder: Path, number: int) -> Record:
    """Raises LatentDatasetError if it is not there or damaged."""
    path = record_file(folder, number)
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise LatentDatasetError(f"the record {path} cannot be read: {type(error).__name__}: {error}") from None


def write_shard(folder: Path, number: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write the file and then its record, each whole or not at all. Raises OSError."""
    content = safetensors.torch.save(dict(tensors))
    record = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), **record}
    write_atomically(shard_file(folder, number), content)
    write_atomically(record_file(folder, number), json.dumps(record, separators=(",", ":")).encode())
