"""Whether a folder of latents is what it says: its files, its index, its statistics, and some images encoded again."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_ae.data import open_source
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.inference.precision import LATENT_ERROR
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.index import (
    INDEX,
    STATISTICS,
    Gathered,
    changed_files,
    completed_with,
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
from latent_ae.latent_dataset.source_images import Images, chosen_parts

_ROWS_AT_ONCE = 1024
CODES_EQUAL = 0.99
"""share of an image's codes that another device or version may be expected to find again; of few codes, all but one"""


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


class NotPossible(Exception):  # noqa: N818 - no fault of the folder
    """The images or the model cannot be opened; the message says why."""


class Again:
    """The images and the encoder that a folder was made of."""

    def __init__(
        self, folder: Path, manifest: Manifest, *, model: str | None, device: torch.device | str | None
    ) -> None:
        """`model` takes the place of the one that the manifest names.

        Raises NotPossible, and UserError if `model` is given and cannot be loaded or has another encoder.
        """
        self._folder = folder
        self._manifest = manifest
        try:
            parts = chosen_parts(open_source(manifest.data), manifest.images.part)
            self._images = Images(
                parts, label_column=manifest.images.label_column, caption_column=manifest.images.caption_column
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
        self._encoder = Encoder(
            codec,
            precision=manifest.compute.precision,
            logvar=manifest.kind == "moments",
            dtype="float32",
            threads=1,
        )

    def error(self, row: dict[str, Any]) -> float:
        """How far the stored latents of a row of the index are from those of its image: the distance over the norm,
        or for codes the share of others. Raises LatentDatasetError if the image is not there as it was.
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
        """The most that `error` of it may be."""
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
    """Compares the index with the shards' records, one shard at a time: all of a large index does not fit into memory.

    Takes the rows of each record, in the order of the shards; `finish` says what is wrong.
    """

    def __init__(self, path: Path, *, samples: int) -> None:
        """So many of its rows, evenly spread, are kept."""
        self.rows = 0
        """that it has"""
        self.sampled: list[dict[str, Any]] = []
        self._name = path
        self._unreadable: str | None = None
        self._all_known = True
        self._recorded = self._differing = 0
        self._first_differing: int | None = None
        self._indexed = self._read(path, samples)

    def add(self, recorded: Iterable[dict[str, Any]] | None) -> None:
        """The rows of the next shard; None if they are not known."""
        if recorded is None:
            self._all_known = False
        for row in recorded or ():
            if next(self._indexed, row) != row:
                self._differing += 1
                self._first_differing = self._recorded if self._first_differing is None else self._first_differing
            self._recorded += 1

    def finish(self) -> str | None:
        """What is wrong, None if nothing. Without the rows of every shard it is not known which belong to which."""
        for _ in self._indexed:  # the rest, for what is to be kept of it
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
        """Its rows, one after the other."""
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
