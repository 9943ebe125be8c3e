"""Whether a folder of latents is what it says: its files, its index, its statistics, and some images encoded again."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_ae.codec.device import one_thread
from latent_ae.latent_dataset.again import Again, NotPossible
from latent_ae.latent_dataset.errors import LatentDatasetError
from latent_ae.latent_dataset.index import INDEX, STATISTICS, Gathered
from latent_ae.latent_dataset.index_check import IndexCheck
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
    on_shard: Callable[[int], object] = lambda _total: None,
) -> Verification:
    """Check a folder of latents.

    Args:
        folder: what train/encode_dataset.py made.
        model: to encode again with; None: the one that the manifest names.
        samples: images, evenly spread, that are encoded again, if the model and the images can be opened.
        device: to encode on; None: the CPU.
        on_shard: called after each shard, with how many there are.

    Raises LatentDatasetError if the folder has no manifest that can be read, UserError if `model` is given and cannot
    be loaded or has another encoder.
    """
    manifest = read_manifest(folder)
    found = Verification()
    index, gathered = IndexCheck(folder / INDEX, samples=samples), Gathered(manifest)
    for number in range(manifest.shards):
        try:
            record = read_record(folder, number)
        except LatentDatasetError as error:
            found.problems.append(str(error))
            index.add(None)
        else:
            if (problem := _shard_problem(folder, manifest, number, record)) is not None:
                found.problems.append(f"{file_name(number)} {problem}")
            index.add({**row, "shard": file_name(number)} for row in record.rows)
            gathered.add(record)
            found.shards += 1
        on_shard(manifest.shards)
    if (problem := index.finish()) is not None:
        found.problems.append(problem)
    found.rows = index.rows
    if (problem := _statistics_problem(folder, gathered if found.shards == manifest.shards else None)) is not None:
        found.problems.append(problem)
    if index.sampled:
        _encode_again(folder, manifest, index.sampled, found, model=model, device=device)
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
    # Earlier versions added grids up in the order in which they came.
    recorded, orders = (record.statistics or {}) | {"pixels": 0}, (sorted(counts), list(counts))
    same = any(_computed_statistics(tensors, order) == recorded for order in orders)
    return None if same else "has other statistics than its record says"


def _computed_statistics(tensors: dict[str, Tensor], order: list[str]) -> dict[str, Any]:
    """As in a record, but for how many pixels codes stand for, which is not in the file."""
    with one_thread():  # as when it was made
        sums = sums_of(tensors, 0, order=order)
    return ({} if sums is None else sums.to_json()) | {"pixels": 0}


def _fine(tensor: Tensor, manifest: Manifest) -> bool:
    if manifest.kind == "vq_indices":
        return int(tensor.to(torch.int64).max()) < (manifest.encoder.codebook_size or 0)
    return bool(tensor.isfinite().all())


def _statistics_problem(folder: Path, gathered: Gathered | None) -> str | None:
    """What is wrong with stats.json, None if nothing; `gathered` is None where some shards are not known."""
    try:
        latents = json.loads((folder / STATISTICS).read_text(encoding="utf-8"))["latents"]
    except (OSError, ValueError, KeyError) as error:
        return f"{STATISTICS} cannot be read: {type(error).__name__}: {error}"
    if gathered is not None and latents != gathered.latents():
        return f"{STATISTICS} is not what the shards' records add up to"
    return None


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
        if not distance <= again.allowed(row):  # so that NaN is one
            found.problems.append(
                f"{row['name']}: its stored latents are not those of its image (error {distance:.2g})"
            )
