"""Whether a folder of latents is what it says: its files, its index, its statistics, and some images encoded again."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from latent_ae.latent_dataset.again import Again, NotPossible
from latent_ae.latent_dataset.errors import LatentDatasetError
from latent_ae.latent_dataset.index import (
    INDEX,
    STATISTICS,
    Gathered,
    changed_files,
    completed_with,
    read_statistics,
)
from latent_ae.latent_dataset.index_check import IndexCheck
from latent_ae.latent_dataset.manifest import Manifest, read_manifest
from latent_ae.latent_dataset.settings import command
from latent_ae.latent_dataset.shard import (
    file_name,
    inconsistency,
    read_record,
    record_name,
    require_unchanged,
)


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
    cure: str | None = None
    """the command that makes anew what is damaged; None if nothing is"""

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
    inconsistent: list[str] = []
    for number in range(manifest.shards):
        try:
            record = read_record(folder, manifest, number)
        except LatentDatasetError as error:
            found.problems.append(str(error))
            index.add(None)
        else:
            try:
                require_unchanged(folder, number, record)
                if (problem := inconsistency(folder, manifest, number, record)) is not None:
                    found.problems.append(problem)
                    inconsistent.append(str(folder / record_name(number)))
            except LatentDatasetError as error:
                found.problems.append(str(error))
            index.add({**row, "shard": file_name(number)} for row in record.rows)
            gathered.add(record)
            found.shards += 1
        on_shard(manifest.shards)
    if (problem := index.finish()) is not None:
        found.problems.append(problem)
    found.rows = index.rows
    at_the_end = _problems_at_the_end(folder, manifest, gathered if found.shards == manifest.shards else None)
    found.problems += [text for path, text in at_the_end if not any(str(path) in known for known in found.problems)]
    if found.problems:
        found.cure = command(folder, manifest)
        if inconsistent:  # their checksums are right, so that they would be taken for whole
            found.cure = f"{shlex.join(['rm', *inconsistent])} && {found.cure}"
    if index.sampled:
        _encode_again(folder, manifest, index.sampled, found, model=model, device=device)
    return found


def _problems_at_the_end(folder: Path, manifest: Manifest, gathered: Gathered | None) -> list[tuple[Path, str]]:
    """The files that are not what was written last, and how; `gathered` is None where some shards are not known."""
    try:
        statistics = read_statistics(folder, manifest)
    except LatentDatasetError as error:
        return [(folder / STATISTICS, str(error))]
    problems = [
        (
            folder / name,
            f"{folder / name} is not the file that the data set was completed with: it was damaged or changed",
        )
        for name in changed_files(folder, completed_with(statistics))
    ]
    if gathered is not None and statistics["latents"] != gathered.latents():
        path = folder / STATISTICS
        problems.append((path, f"{path} is not what the shards' records add up to"))
    return problems


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
