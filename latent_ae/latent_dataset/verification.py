"""Checks of a folder of latents: its files, its index, its statistics, and some images encoded again."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_ae.errors import UserError
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
    samples: int = 8,
    device: torch.device | str | None = None,
    on_shard: Callable[[int], object] = lambda _total: None,
) -> Verification:
    """Check a folder of latents.

    Args:
        folder: output of train/encode_dataset.py.
        model: encodes again; None: the model that the manifest names.
        samples: number of images, evenly spread, to encode again if the model and the images can be opened.
        device: to encode on; None: the CPU.
        on_shard: called after each shard with the number of shards.

    Raises LatentDatasetError if the folder's manifest cannot be read, UserError if `model` is given and cannot be
    loaded or has another encoder.
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
        if inconsistent:  # their checksums are right, so the command alone would keep them
            found.cure = f"{shlex.join(['rm', *inconsistent])} && {found.cure}"
    if index.sampled:
        _encode_again(folder, manifest, index.sampled, found, model=model, device=device)
    return found


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
        if not distance <= again.allowed(row):  # NaN is a problem, too
            found.problems.append(
                f"{row['name']}: its stored latents are not those of its image (error {distance:.2g})"
            )


class NotPossible(Exception):  # noqa: N818 - no fault of the folder
    """The images or the model cannot be opened, for the reason in the message."""


class Again:
    """The images and the encoder that a folder was made from."""

    def __init__(
        self, folder: Path, manifest: Manifest, *, model: str | None, device: torch.device | str | None
    ) -> None:
        """`model` replaces the one that the manifest names.

        Raises NotPossible, and UserError if `model` is given and cannot be loaded or has another encoder.
        """
        self._folder, self._manifest = folder, manifest
        try:
            part = manifest.images
            self._images = Images(
                manifest.data.open(),
                part.part,
                label_column=part.label_column,
                caption_column=part.caption_column,
            )
        except UserError as error:
            raise NotPossible(str(error)) from error
        try:
            codec = Codec.load(
                model or manifest.model.name, device=device, precision="exact", tile=manifest.compute.tile
            )
            if codec.identity != manifest.encoder.identity:
                raise LatentDatasetError(
                    f"the encoder of {codec.name} is {codec.identity[:16]}, that of {folder} "
                    f"{manifest.encoder.identity[:16]}: give the model that made these latents"
                )
        except UserError as error:
            if model is not None:
                raise
            raise NotPossible(f"{error}; --model names another") from error
        precision, logvar = manifest.compute.precision, manifest.kind == "moments"
        self._encoder = Encoder(codec, precision=precision, logvar=logvar, dtype="float32", threads=1)

    def error(self, row: dict[str, Any]) -> float:
        """Distance over norm of a row's stored latents to those of its image, or the share of codes that differ.

        Raises LatentDatasetError if the image is missing, unusable or has changed.
        """
        view = self._images.view_again(row, self._manifest.preprocessing)
        pixels = view.pixels[:, ::-1] if row["flipped"] else view.pixels
        made = self._encoder.submit([pixels]).result().tensors
        with safe_open(self._folder / row["shard"], "pt") as file:
            return max(
                _distance(file.get_tensor(f"{name}.{row['grid']}")[row["row"]], tensor[0])
                for name, tensor in made.items()
            )

    def allowed(self, row: dict[str, Any]) -> float:
        """The largest `error` of a row that is no problem."""
        if self._manifest.kind != "vq_indices":
            return LATENT_ERROR
        height, width = map(int, row["grid"].split("x"))
        return max(1 - CODES_EQUAL, 1 / (height * width))


def _distance(stored: Tensor, made: Tensor) -> float:
    if not stored.is_floating_point():
        return float((stored.to(torch.int64) != made.to(torch.int64)).double().mean())
    one, other = stored.double(), made.double()
    return float((one - other).norm() / other.norm().clamp(min=1e-30))


class IndexCheck:
    """Compares the index with the shards' records, one shard at a time, as a large index does not fit into memory."""

    def __init__(self, path: Path, *, samples: int) -> None:
        """Keeps `samples` of the rows, evenly spread."""
        self.rows = 0
        """of the index"""
        self.sampled: list[dict[str, Any]] = []
        self._name = path
        self._unreadable: str | None = None
        self._all_known = True
        self._recorded = self._differing = self._first_differing = 0
        self._indexed = self._read(path, samples)

    def add(self, recorded: Iterable[dict[str, Any]] | None) -> None:
        """Compare the rows of the next shard; None if they are unknown."""
        if recorded is None:
            self._all_known = False
        for row in recorded or ():
            if next(self._indexed, row) != row:
                self._first_differing = self._first_differing if self._differing else self._recorded
                self._differing += 1
            self._recorded += 1

    def finish(self) -> str | None:
        """The problem, None without one. If a shard's rows are unknown, the others have no place to be compared at."""
        for _ in self._indexed:  # the rest, for the samples in it
            pass
        if self._unreadable is not None:
            return f"{self._name} cannot be read: {self._unreadable}"
        if not self._all_known:
            return None
        if self._recorded != self.rows:
            return f"{self._name} has {self.rows} rows, the shards have {self._recorded}"
        if self._differing:
            return (
                f"{self._name}: {self._differing} rows are not what the shards' records say, first row "
                f"{self._first_differing}"
            )
        return None

    def _read(self, path: Path, samples: int) -> Iterator[dict[str, Any]]:
        try:
            with pq.ParquetFile(path) as file:
                self.rows = file.metadata.num_rows
                count = min(samples, self.rows)
                kept, number = {place * self.rows // count for place in range(count)}, 0
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                    for row in batch.to_pylist():
                        if number in kept:
                            self.sampled.append(row)
                        number += 1
                        yield row
        except (OSError, ValueError) as error:  # pyarrow's errors are either
            self._unreadable = " ".join(str(error).split())
