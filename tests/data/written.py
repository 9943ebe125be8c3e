"""Tiny data sets of noise as their tools write them: tar shards and parquet files."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from tests.data.images import noise_image


def encoded(seed: int, **size: int) -> bytes:
    """A PNG of `noise_image`."""
    stream = io.BytesIO()
    noise_image(seed, **size).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, samples: Iterable[tuple[str, bytes]]) -> Path:
    """A webdataset shard: for each sample its files KEY.json and KEY.png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, image in samples:
            for ending, content in (("json", b'{"caption": "noise"}'), ("png", image)):
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def write_tars(folder: Path, sizes: Iterable[int]) -> Path:
    """Shards train-0.tar, train-1.tar, ... of so many samples; sample k of shard s shows noise 100 * s + k."""
    for shard, size in enumerate(sizes):
        samples = ((f"{row:04d}", encoded(100 * shard + row)) for row in range(size))
        write_tar(folder / f"train-{shard}.tar", samples)
    return folder


def table(images: list[dict[str, Any] | None]) -> datasets.Dataset:
    """Rows {label, picture}."""
    features = datasets.Features({"label": datasets.Value("int64"), "picture": datasets.Image()})
    return datasets.Dataset.from_dict({"label": list(range(len(images))), "picture": images}, features=features)


def write_parquets(folder: Path, sizes: Iterable[int]) -> Path:
    """Files train-0.parquet, ...; in row groups of 3."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, size in enumerate(sizes):
        rows = table([{"bytes": encoded(100 * shard + row), "path": None} for row in range(size)])
        rows.to_parquet(folder / f"train-{shard}.parquet", batch_size=3)
    return folder
