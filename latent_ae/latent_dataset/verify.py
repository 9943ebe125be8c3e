"""Whether a folder of latents is what it says: its files, its index, its statistics, and some images encoded again."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_ae.latent_dataset.again import Again, NotPossible, spread
from latent_ae.latent_dataset.encoder import one_thread
from latent_ae.latent_dataset.errors import LatentDatasetError
from latent_ae.latent_dataset.index import INDEX, STATISTICS, statistics_of
from latent_ae.latent_dataset.manifest import TENSORS, Manifest, read_manifest
from latent_ae.latent_dataset.shard import Record, file_name, read_record, shard_file
from latent_ae.latent_dataset.statistics import sums_of


@dataclass
class Verification:
    """What was looked at and found."""

    shards: int = 0
    rows: int = 0
    encoded_again: int = 0
    largest_error: float = 0.0
    """of those: distance over norm, or for codes the share of others"""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """what could not be looked at, and why"""

    def __str__(self) -> str:
        again = f", {self.encoded_again} images encoded again (largest error {self.largest_error:.2g})"
        return f"{self.shards} shards, {self.rows} rows{again if self.encoded_again else ''}: " + (
            f"{len(self.problems)} problems" if self.problems else "whole"
        )


def verify(
    folder: Path,
    *,
    model: str | None = None,
    samples: int = 8,
    device: torch.device | str | None = None,
    on_shard: Callable[[], object] = lambda: None,
) -> Verification:
    """Check a folder of latents.

    Args:
        folder: what train/encode_dataset.py made.
        model: to encode again with; None: the one that the manifest names.
        samples: images, evenly spread, that are encoded again, if the model and the images can be opened.
        device: to encode on; None: the CPU.
        on_shard: called after each shard.

    Raises LatentDatasetError if the folder has no manifest that can be read, UserError if `model` is given and cannot
    be loaded or has another encoder.
    """
    manifest = read_manifest(folder)
    found = Verification()
    records: list[Record] = []
    for number in range(manifest.shards):
        try:
            record = read_record(folder, number)
            records.append(record)
            if (problem := _shard_problem(folder, manifest, number, record)) is not None:
                found.problems.append(f"{file_name(number)} {problem}")
            found.shards += 1
        except LatentDatasetError as error:
            found.problems.append(str(error))
        on_shard()
    rows = _check_index(folder, manifest, records, found)
    _check_statistics(folder, manifest, records, found)
    if samples and rows:
        _encode_again(folder, manifest, spread(rows, samples), found, model=model, device=device)
    return found


def _shard_problem(folder: Path, manifest: Manifest, number: int, record: Record) -> str | None:
    """What is wrong with a shard's file, None if nothing."""
    path = shard_file(folder, number)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if digest != record.sha256:
        return "does not match its sha256: it was damaged or changed"
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no dict
    return _content_problem(manifest, tensors, record)


def _content_problem(manifest: Manifest, tensors: dict[str, Tensor], record: Record) -> str | None:
    counts: dict[str, int] = {}
    for row in record.rows:
        counts[row["grid"]] = max(counts.get(row["grid"], 0), row["row"] + 1)
    expected = {f"{kind}.{grid}": count for grid, count in counts.items() for kind in TENSORS[manifest.kind]}
    if {key: len(tensor) for key, tensor in tensors.items()} != expected:
        return "does not hold the tensors of its record"
    if any(str(tensor.dtype) != f"torch.{manifest.dtype}" for tensor in tensors.values()):
        return f"is not in {manifest.dtype}"
    if bad := [key for key, tensor in tensors.items() if not _fine(tensor, manifest)]:
        return f"holds values in {bad[0]} that are not finite, or codes that are not in the codebook"
    with one_thread():  # as when it was made
        sums = sums_of(tensors, 0)
    computed = {} if sums is None else sums.to_json()
    # How many pixels codes stand for is not in the file.
    same = computed | {"pixels": 0} == (record.statistics or {}) | {"pixels": 0}
    return None if same else "has other statistics than its record says"


def _fine(tensor: Tensor, manifest: Manifest) -> bool:
    if manifest.kind == "vq_indices":
        return int(tensor.to(torch.int64).max()) < (manifest.encoder.codebook_size or 0)
    return bool(tensor.isfinite().all())


def _check_index(folder: Path, manifest: Manifest, records: list[Record], found: Verification) -> list[dict[str, Any]]:
    """The rows of the index, none where it cannot be trusted."""
    try:
        table = pq.read_table(folder / INDEX)
    except (OSError, ValueError) as error:  # pyarrow's errors are either
        found.problems.append(f"{INDEX} cannot be read: {' '.join(str(error).split())}")
        return []
    found.rows = len(table)
    rows: list[dict[str, Any]] = table.to_pylist()
    if len(records) < manifest.shards:
        return rows
    recorded = [{**row, "shard": file_name(n)} for n, record in enumerate(records) for row in record.rows]
    if len(rows) != len(recorded):
        found.problems.append(f"{INDEX} has {len(rows)} rows, the shards have {len(recorded)}")
    elif differing := [n for n, (one, other) in enumerate(zip(rows, recorded, strict=True)) if one != other]:
        found.problems.append(
            f"{INDEX}: {len(differing)} rows are not what the shards' records say, first row {differing[0]}"
        )
    return rows


def _check_statistics(folder: Path, manifest: Manifest, records: list[Record], found: Verification) -> None:
    try:
        latents = json.loads((folder / STATISTICS).read_text(encoding="utf-8"))["latents"]
    except (OSError, ValueError, KeyError) as error:
        found.problems.append(f"{STATISTICS} cannot be read: {type(error).__name__}: {error}")
        return
    if len(records) == manifest.shards and latents != statistics_of(manifest, records):
        found.problems.append(f"{STATISTICS} is not what the shards' records add up to")


def _encode_again(
    folder: Path,
    manifest: Manifest,
    rows: list[dict[str, Any]],
    found: Verification,
    *,
    model: str | None,
    device: torch.device | str | None,
) -> None:
    try:
        again = Again(folder, manifest, model=model, device=device)
    except NotPossible as error:
        found.notes.append(f"no image was encoded again: {error}")
        return
    for row in rows:
        try:
            distance = again.error(row)
        except (LatentDatasetError, SafetensorError, OSError) as error:
            found.problems.append(f"{row['name']}: {error}")
            continue
        found.encoded_again += 1
        found.largest_error = max(found.largest_error, distance)
        if not distance <= again.allowed:  # so that NaN is one
            found.problems.append(
                f"{row['name']}: its stored latents are not those of its image (error {distance:.2g})"
            )
