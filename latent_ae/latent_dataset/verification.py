"""Checks of a folder of latents: its files, its index, its statistics, and some images encoded again."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_ae.data.values import read_as
from latent_ae.errors import UserError, one_line
from latent_ae.inference import Codec
from latent_ae.inference.precision import LATENT_ERROR
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.images import Images
from latent_ae.latent_dataset.index import (
    INDEX,
    STATISTICS,
    Gathered,
    changed_files,
    read_statistics,
)
from latent_ae.latent_dataset.manifest import LatentDatasetError, Manifest, read_manifest
from latent_ae.latent_dataset.settings import command
from latent_ae.latent_dataset.shard import (
    file_name,
    inconsistency,
    read_record,
    record_name,
    require_unchanged,
)

_ROWS_AT_ONCE = 1024
CODES_EQUAL = 0.99
"""share of an image's codes that another device or version has to reproduce; one code of a small image may differ"""


@dataclass
class Verification:
    """What was checked, and the problems found."""

    shards: int = 0
    rows: int = 0
    encoded_again: int = 0
    largest_error: float = 0.0
    """of those: distance over norm, or the share of codes that differ"""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """what could not be checked, and why"""
    cure: str | None = None
    """the command that repairs the damage; None if there is none"""

    def __str__(self) -> str:
        again = f", {self.encoded_again} images encoded again (largest error {self.largest_error:.2g})"
        return f"{self.shards} shards, {self.rows} rows{again if self.encoded_again else ''}: " + (
            f"{len(self.problems)} problems" if self.problems else "whole"
        )


def verify(
    folder: Path,
    *,
    model: str | None = None,
    count: int = 8,
    device: torch.device | str | None = None,
    on_shard: Callable[[int], object] = lambda _total: None,
) -> Verification:
    """Check a folder of latents.

    Args:
        folder: output of train/encode_dataset.py.
        model: encodes again; None: the model that the manifest names.
        count: number of images, evenly spread, to encode again if the model and the images can be opened.
        device: to encode on; None: the CPU.
        on_shard: called after each shard with the number of shards.

    Raises LatentDatasetError if the folder's manifest cannot be read, UserError if `model` is given and cannot be
    loaded or has another encoder.
    """
    manifest = read_manifest(folder)
    found, gathered = Verification(), Gathered(manifest)
    inconsistent: list[str] = []

    def recorded() -> Iterator[dict[str, Any]]:
        """Check the shards, one after another, and give the rows of their records."""
        for number in range(manifest.shards):
            record = None
            try:
                record = read_record(folder, manifest, number)
                require_unchanged(folder, number, record)
                if (problem := inconsistency(folder, manifest, number, record)) is not None:
                    inconsistent.append(str(folder / record_name(number)))
                    raise LatentDatasetError(problem)
            except LatentDatasetError as error:
                found.problems.append(str(error))
            on_shard(manifest.shards)
            if record is not None:
                gathered.add(record)
                found.shards += 1
                yield from ({**row, "shard": file_name(number)} for row in record.rows)

    to_encode = _compare_index(folder / INDEX, recorded(), found, manifest.shards, count)
    at_the_end = _problems_at_the_end(folder, manifest, gathered if found.shards == manifest.shards else None)
    found.problems += [text for path, text in at_the_end if not any(str(path) in known for known in found.problems)]
    if found.problems:
        found.cure = command(folder, manifest)
        if inconsistent:  # their checksums are right, so the command alone would keep them
            found.cure = f"{shlex.join(['rm', *inconsistent])} && {found.cure}"
    if to_encode:
        _encode_again(folder, manifest, to_encode, found, model=model, device=device)
    return found


def _compare_index(
    path: Path, recorded: Iterator[dict[str, Any]], found: Verification, shards: int, count: int
) -> list[dict[str, Any]]:
    """Compare the index with the rows that the shards' records say; both may not fit into memory.

    If the rows of a shard are unknown, those of the others have no place to be compared at. Returns `count` of the
    rows, evenly spread.
    """
    kept: list[dict[str, Any]] = []
    differing: list[int] = []
    records, problem = 0, None
    try:
        with pq.ParquetFile(path) as file:
            found.rows = file.metadata.num_rows
            count = min(count, found.rows)
            places = {place * found.rows // count for place in range(count)}
            indexed = (row for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE) for row in batch.to_pylist())
            for number, (row, expected) in enumerate(zip_longest(indexed, recorded)):
                records += expected is not None
                if number in places:
                    kept.append(row)
                if row != expected:
                    differing.append(number)
    except (OSError, ValueError) as error:  # pyarrow's errors are either
        problem = f"{path} cannot be read: {one_line(error)}"
    for _ in recorded:  # the shards that are left to check
        pass
    if problem is None and found.shards == shards and differing:
        problem = f"{path}: {len(differing)} rows are not what the shards' records say, first row {differing[0]}"
        if records != found.rows:
            problem = f"{path} has {found.rows} rows, the shards have {records}"
    if problem is not None:
        found.problems.append(problem)
    return kept


def _problems_at_the_end(folder: Path, manifest: Manifest, gathered: Gathered | None) -> list[tuple[Path, str]]:
    """Files that differ from those the data set was completed with; `gathered` is None if a record is unknown."""
    try:
        statistics = read_statistics(folder, manifest)
    except LatentDatasetError as error:
        return [(folder / STATISTICS, str(error))]
    changed = "{} is not the file that the data set was completed with: it was damaged or changed"
    changes = changed_files(folder, statistics["files"])
    problems = [(folder / name, changed.format(folder / name)) for name in changes]
    if gathered is not None and statistics["latents"] != gathered.latents():
        problems.append((folder / STATISTICS, f"{folder / STATISTICS} is not what the shards' records add up to"))
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
    """Compare the stored latents of rows of the index with those of their images, if images and model can be opened."""
    asked = manifest.images
    columns = {"label_column": asked.label_column, "caption_column": asked.caption_column}
    try:
        data = read_as(manifest.preprocessing.pixels, manifest.data, "the model")
        images = Images(data.open(), asked.part, **columns)
    except UserError as error:
        found.notes.append(f"no image was encoded again: {error}")
        return
    try:
        encoder = _same_encoder(folder, manifest, model or manifest.model.name, device)
    except UserError as error:
        if model is not None:
            raise
        found.notes.append(f"no image was encoded again: {error}; --model names another")
        return
    for row in rows:
        try:
            view = images.view_again(row, manifest.preprocessing)
            (made,) = encoder.submit([view.values[:, ::-1] if row["flipped"] else view.values]).result()
            distance = _distance(folder, row, made.tensors)
        except (LatentDatasetError, SafetensorError, OSError) as error:
            found.problems.append(f"{row['name']}: {error}")
            continue
        found.encoded_again += 1
        found.largest_error = max(found.largest_error, distance)
        if not distance <= allowed_error(manifest, row["grid"]):  # NaN is a problem, too
            found.problems.append(
                f"{row['name']}: its stored latents are not those of its image (error {distance:.2g})"
            )


def _same_encoder(folder: Path, manifest: Manifest, model: str, device: torch.device | str | None) -> Encoder:
    """Raises UserError if the model cannot be loaded or has another encoder than the folder's."""
    codec = Codec.load(model, device=device, precision="exact", tile=manifest.compute.tile)
    if codec.identity != manifest.encoder.identity:
        raise LatentDatasetError(
            f"the encoder of {codec.name} is {codec.identity[:16]}, that of {folder} "
            f"{manifest.encoder.identity[:16]}: give the model that made these latents"
        )
    precision, logvar = manifest.compute.precision, manifest.kind == "moments"
    return Encoder(codec, precision=precision, logvar=logvar, dtype="float32", threads=1)


def allowed_error(manifest: Manifest, grid: str) -> float:
    """The largest error of latents of a grid size "HxW" that is no problem: see `Verification.largest_error`."""
    if manifest.kind != "vq_indices":
        return LATENT_ERROR
    height, width = map(int, grid.split("x"))
    return max(1 - CODES_EQUAL, 1 / (height * width))


def _distance(folder: Path, row: dict[str, Any], made: dict[str, Tensor]) -> float:
    """Distance over norm of a row's stored tensors to those `made` of its image, or the share of codes that differ."""
    distances = []
    with safe_open(folder / row["shard"], "pt") as file:
        for name, tensor in made.items():
            stored = file.get_tensor(f"{name}.{row['grid']}")[row["row"]].double()
            expected = tensor.double()
            if name == "indices":
                distances.append(float((stored != expected).double().mean()))
            else:
                distances.append(float((stored - expected).norm() / expected.norm().clamp(min=1e-30)))
    return max(distances)
