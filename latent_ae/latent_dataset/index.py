"""The files that are written once every shard exists: the index, the statistics, and lists of images left out.

They follow from the shards' records in their order, whichever process made them. The statistics hold the sha256 of the
other files, and the index is written last: a data set whose files agree with its statistics is complete.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latent_ae.config.section import size_of
from latent_ae.io.atomic import write_atomically
from latent_ae.io.checksum import file_sha256
from latent_ae.latent_dataset.manifest import (
    TENSORS,
    LatentDatasetError,
    Manifest,
    read_checked,
    read_manifest,
    with_checksum,
)
from latent_ae.latent_dataset.shard import COLUMNS, Record, file_name, read_record, record_name
from latent_ae.latent_dataset.statistics import Sums, described, merged, sums_from_json
from latent_ae.models.naming import model_name

INDEX = "index.parquet"
STATISTICS = "stats.json"
SKIPPED = "skipped.jsonl"
DUPLICATES = "duplicates.jsonl"
CARD = "README.md"

_ROWS_OF_A_GROUP = 1 << 16


@dataclass(frozen=True)
class Summary:
    """Counts of a complete data set, for people."""

    rows: int
    skipped: int
    """images, or mirror images, that are left out"""
    nonfinite: int
    """among them, for latents that are not finite"""
    duplicates: int
    """rows whose image is that of a row before them"""
    tiled: int
    """rows of images that were encoded in tiles, an approximation"""
    written: tuple[str, ...]
    """files that were missing or different"""


def write_index(folder: Path) -> Summary:
    """Write the index and the files beside it from the records of all shards, those that are missing or different.

    Raises LatentDatasetError if the manifest or a record cannot be read or there is no row, OSError if a file cannot be
    written.
    """
    manifest = read_manifest(folder)
    tables: list[Any] = []
    first_names: dict[bytes, str] = {}
    gathered = Gathered(manifest)
    skipped: list[dict[str, str]] = []
    duplicates: list[dict[str, str]] = []
    tiled = 0
    schema, stream = index_schema(manifest), io.BytesIO()
    with pq.ParquetWriter(stream, schema) as writer:
        for number in range(manifest.shards):
            record = read_record(folder, manifest, number)
            gathered.add(record)
            skipped += record.skipped
            tiled += sum(manifest.tiled(row["grid"]) for row in record.rows)
            for row in record.rows:
                first = first_names.setdefault(bytes.fromhex(row["id"]), row["name"])
                if first != row["name"] and not row["flipped"]:
                    duplicates.append({"id": row["name"], "same_as": first})
            rows = [{**row, "shard": file_name(number)} for row in record.rows]
            tables.append(pa.Table.from_pylist(rows, schema=schema))
            if number == manifest.shards - 1 or sum(map(len, tables)) >= _ROWS_OF_A_GROUP:
                writer.write_table(pa.concat_tables(tables))
                tables.clear()
    if not gathered.rows:
        first = f"; the first is {skipped[0]['id']}: {skipped[0]['reason']}" if skipped else ""
        raise LatentDatasetError(f"none of the images could be encoded into {folder}{first}")
    files = {SKIPPED: _lines(skipped), DUPLICATES: _lines(duplicates), INDEX: stream.getvalue()}
    statistics = {
        "schema": 1,
        "rows": gathered.rows,
        "skipped": len(skipped),
        "duplicates": len(duplicates),
        "nonfinite_images": gathered.nonfinite_images,
        "nonfinite_values": gathered.nonfinite_values,
        "latents": gathered.latents(),
        "fingerprint": manifest.fingerprint,
        "files": {
            **{name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            **{name: _sha256(folder / name) for name in map(record_name, range(manifest.shards))},
        },
    }
    files = {STATISTICS: (json.dumps(with_checksum(statistics), indent=1) + "\n").encode(), **files}
    if not (folder / CARD).exists():  # which is the user's to edit
        files = {CARD: _card(manifest, statistics).encode(), **files}
    written = tuple(name for name, content in files.items() if not _holds(folder / name, content))
    for name in written:
        write_atomically(folder / name, files[name])
    return Summary(gathered.rows, len(skipped), gathered.nonfinite_images, len(duplicates), tiled, written)


def read_statistics(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The content of stats.json. `files` has the sha256 by name of the index, the lists and the records as they were
    when the data set was completed; it is empty if an earlier version completed it.

    Raises LatentDatasetError if the file is missing, damaged, or of another data set.
    """
    path = folder / STATISTICS
    statistics, checked = read_checked(path)
    if checked and statistics.get("fingerprint") != manifest.fingerprint:
        raise LatentDatasetError(f"{path} holds the statistics of another data set")
    if not isinstance(statistics.get("latents"), dict):
        raise LatentDatasetError(f"{path} is damaged: it has no statistics of the latents")
    return {"files": {}, **statistics}


def changed_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Those of the named files that are not there or have another sha256."""
    return [name for name, digest in digests.items() if _sha256(folder / name) != digest]


def index_schema(manifest: Manifest) -> Any:
    """Of the index, with the features that the `datasets` library reads out of it."""
    import datasets  # noqa: PLC0415 - takes seconds

    features: dict[str, Any] = {name: datasets.Value(kind) for name, kind in COLUMNS.items()}
    features["crop"] = datasets.List(features["crop"])
    if manifest.label_names is not None:
        features["label"] = datasets.ClassLabel(names=list(manifest.label_names))
    return datasets.Features(features).arrow_schema


class Gathered:
    """Counts and sums over the shards, added in their order."""

    def __init__(self, manifest: Manifest) -> None:
        self._codebook_size = manifest.encoder.codebook_size
        self._sums: Sums | None = None
        self.rows = self.nonfinite_images = self.nonfinite_values = 0

    def add(self, record: Record) -> None:
        """The next shard."""
        self.rows += len(record.rows)
        self.nonfinite_images += record.nonfinite_images
        self.nonfinite_values += record.nonfinite_values
        if record.statistics is not None:
            sums = sums_from_json(record.statistics, self._codebook_size)
            self._sums = sums if self._sums is None else merged(self._sums, sums)

    def latents(self) -> dict[str, Any]:
        """What stats.json says of the latents themselves."""
        return {} if self._sums is None else described(self._sums)


def _sha256(path: Path) -> str | None:
    """None if the file cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _lines(entries: Iterable[dict[str, str]]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def _card(manifest: Manifest, statistics: dict[str, Any]) -> str:
    """A data card; its first lines tell `datasets` and the hub where the index is."""
    split = "test" if manifest.images.part == "heldout" else "train"
    resolution, fit = manifest.preprocessing.resolution, manifest.preprocessing.fit
    tensors = "`, `".join(f"{kind}.GRID" for kind in TENSORS[manifest.kind])
    height, width = size_of(resolution or 0)
    within = "within" if fit == "pad" else "at"
    size = "at their own size" if resolution is None else f"{within} {height}x{width} pixels"
    if manifest.preprocessing.pixel_format is not None:
        size += f", {manifest.preprocessing.pixel_format.describe()}"
    return f"""---
configs:
- config_name: default
  data_files:
  - split: {split}
    path: {INDEX}
---

# Latents of {statistics["rows"]} images

Made by {model_name(manifest.model.name)} of images {size}; {manifest.kind} in {manifest.dtype}, raw (unscaled).
Encoder identity `{manifest.encoder.identity}`, fingerprint `{manifest.fingerprint}`.

```python
from latent_ae.latent_dataset import LatentDataset
LatentDataset("THIS_FOLDER")[0]  # {{"latents", "label", "id"}}
```

The index alone needs nothing of that: `datasets.load_dataset("THIS_FOLDER", split="{split}")`; `row["shard"]` is a
safetensors file here, `row["row"]` a row of its tensors `{tensors}`.
"""
