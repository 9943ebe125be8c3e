"""A shard on the disk: latents in a safetensors file, and its record.

    shards/00000.safetensors   mean.HxW and logvar.HxW [n,c,h,w], or indices.HxW [n,h,w], for every grid size h x w
    shards/00000.json          its record, written after it: a shard without one does not exist

Both depend on the images of the shard alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_ae.device import one_thread
from latent_ae.errors import one_line
from latent_ae.io.atomic import write_atomically
from latent_ae.io.checksum import file_sha256
from latent_ae.latent_dataset.manifest import TENSORS, LatentDatasetError, Manifest, read_checked, with_checksum
from latent_ae.latent_dataset.statistics import sums_from_json, sums_of

FOLDER = "shards"

COLUMNS = {
    "id": "string",
    "name": "string",
    "shard": "string",
    "row": "int32",
    "grid": "string",
    "label": "int64",
    "caption": "string",
    "height": "int32",
    "width": "int32",
    "original_height": "int32",
    "original_width": "int32",
    "crop": "int32",
    "flipped": "bool",
    "source_index": "int64",
}
"""of the index, with their types, that of `crop` being a list; a record's rows have all but `shard`"""


@dataclass(frozen=True)
class Record:
    """What a shard holds, as JSON."""

    sha256: str
    """of the safetensors file"""
    size: int
    """of the safetensors file, in bytes"""
    rows: list[dict[str, Any]]
    """rows of the index"""
    skipped: list[dict[str, str]]
    """{"id": name, "reason"} of images that could not be used"""
    nonfinite_images: int
    """of them, those with values that are not finite"""
    nonfinite_values: int
    statistics: dict[str, Any] | None
    """LatentSums or CodebookStatistics; None without a row"""
    fingerprint: str | None = None
    """of the manifest; None in records of earlier versions, which have no checksum"""
    shard: int | None = None
    """its number; None in records of earlier versions"""


def file_name(number: int) -> str:
    """The latents of shard `number`, relative to the folder."""
    return f"{FOLDER}/{number:05d}.safetensors"


def record_name(number: int) -> str:
    """The record of shard `number`, relative to the folder."""
    return f"{FOLDER}/{number:05d}.json"


def read_record(folder: Path, manifest: Manifest, number: int) -> Record:
    """Raises LatentDatasetError if it is missing, damaged, or of another shard or data set."""
    path = folder / record_name(number)
    tree, checked = read_checked(path)
    try:
        record = Record(**tree)
        if not checked:  # of an earlier version
            _require_form(record, manifest)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise LatentDatasetError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if checked and (record.fingerprint, record.shard) != (manifest.fingerprint, number):
        raise LatentDatasetError(f"{path} is the record of another shard or data set")
    return record


def write_shard(
    folder: Path, manifest: Manifest, number: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
) -> None:
    """Write the file and then its record, each whole or not at all. Raises OSError."""
    content = safetensors.torch.save(dict(tensors))
    record = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "fingerprint": manifest.fingerprint,
        "shard": number,
        **record,
    }
    write_atomically(folder / file_name(number), content)
    write_atomically(folder / record_name(number), json.dumps(with_checksum(record), separators=(",", ":")).encode())


def require_unchanged(folder: Path, number: int, record: Record) -> None:
    """Raises LatentDatasetError unless the latents of a shard have the sha256 of its record."""
    path = folder / file_name(number)
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise LatentDatasetError(f"{path} cannot be read: {error.strerror or error}") from None
    if digest != record.sha256:
        raise LatentDatasetError(f"{path} does not match its sha256: it was damaged or changed")


def inconsistency(folder: Path, manifest: Manifest, number: int, record: Record) -> str | None:
    """How the tensors of a shard differ from its record and the manifest; None if they agree."""
    path = folder / file_name(number)
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no dict
    except (SafetensorError, OSError) as error:
        return f"{path} cannot be read: {one_line(error)}"
    problem = _inconsistency(manifest, tensors, record)
    return None if problem is None else f"{path} {problem}"


def _require_form(record: Record, manifest: Manifest) -> None:
    """Check a record that has no checksum. Raises ValueError, KeyError, TypeError."""
    for row in record.rows:
        if {"shard", *row} != COLUMNS.keys():
            raise ValueError(f"a row has the entries {sorted(row)}")
    if record.statistics is not None:
        sums_from_json(record.statistics, manifest.encoder.codebook_size)


def _inconsistency(manifest: Manifest, tensors: dict[str, Tensor], record: Record) -> str | None:
    counts: dict[str, int] = {}
    for row in record.rows:
        counts[row["grid"]] = max(counts.get(row["grid"], 0), row["row"] + 1)
    expected = {f"{kind}.{grid}": count for grid, count in counts.items() for kind in TENSORS[manifest.kind]}
    if {key: len(tensor) for key, tensor in tensors.items()} != expected:
        return "does not hold the tensors of its record"
    if any(str(tensor.dtype) != f"torch.{manifest.dtype}" for tensor in tensors.values()):
        return f"is not in {manifest.dtype}"
    if bad := [key for key, tensor in tensors.items() if not _valid(tensor, manifest)]:
        return f"holds values in {bad[0]} that are not finite, or codes that are not in the codebook"
    # Earlier versions added grids up in the order in which they came.
    recorded, orders = (record.statistics or {}) | {"pixels": 0}, (sorted(counts), list(counts))
    same = any(_computed_statistics(manifest, tensors, order) == recorded for order in orders)
    return None if same else "has other statistics than its record says"


def _computed_statistics(manifest: Manifest, tensors: dict[str, Tensor], order: list[str]) -> dict[str, Any]:
    """As in a record, except the number of pixels, which the file does not have."""
    with one_thread():  # as when it was made
        sums = sums_of(tensors, 0, manifest.encoder.codebook_size, order=order)
    return ({} if sums is None else sums.to_json()) | {"pixels": 0}


def _valid(tensor: Tensor, manifest: Manifest) -> bool:
    if manifest.kind == "vq_indices":
        least, most = tensor.to(torch.int64).aminmax()
        return int(least) >= 0 and int(most) < (manifest.encoder.codebook_size or 0)
    return bool(tensor.isfinite().all())
