"""MosaicML Streaming: MDS shards, read by streaming.StreamingDataset(local=...).

    index.json       the shards, and the columns of each
    shard.00000.mds  uint32 count, count + 1 uint32 offsets of the samples, the columns as JSON, the samples

A sample is the uint32 size of each column whose size is not fixed, and then the columns, sorted by name:

    mean, logvar (of a VQModel: indices)   ndarray: its type and shape before its values
    label                                  int, -1 if there is none
    caption, id, name                      str; the caption is empty if there is none
    row                                    json: the rest

Latents are raw, and as they are stored: float16 or float32 (bfloat16, which numpy does not have, as float32). So each
epoch can sample anew: mean + exp(logvar / 2) * noise.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latent_ae.latent_dataset.conversion.rows import as_arrays
from latent_ae.latent_dataset.dataset import NO_LABEL, LatentDataset, Row
from latent_ae.latent_dataset.manifest import TENSORS

_BYTES = 1 << 26
"""of a shard, as MDSWriter has it; a larger sample has one of its own"""
_DTYPES = {"uint16": 16, "float16": 18, "int32": 33, "float32": 34}


def write(dataset: LatentDataset, rows: Iterator[Row], out: Path) -> list[str]:
    """See `Writer`."""
    encodings = dict.fromkeys(TENSORS[dataset.manifest.kind], "ndarray")
    encodings |= {"label": "int", "caption": "str", "id": "str", "name": "str", "row": "json"}
    columns = sorted(encodings)
    config = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [],
        "size_limit": _BYTES,
        "column_names": columns,
        "column_encodings": [encodings[name] for name in columns],
        "column_sizes": [8 if encodings[name] == "int" else None for name in columns],
    }
    header = json.dumps(config, sort_keys=True).encode()
    shards: list[dict[str, Any]] = []
    for number, samples in enumerate(_shards((_sample(dataset, row) for row in rows), len(header))):
        name = f"shard.{number:05d}.mds"
        offsets = np.cumsum([4 + 4 * (len(samples) + 1) + len(header), *map(len, samples)]).astype("<u4")
        content = np.array([len(samples)], "<u4").tobytes() + offsets.tobytes() + header + b"".join(samples)
        (out / name).write_bytes(content)
        file = {"basename": name, "bytes": len(content), "hashes": {}}
        shards.append({"samples": len(samples), "raw_data": file, "zip_data": None, **config})
    (out / "index.json").write_text(json.dumps({"version": 2, "shards": shards}, sort_keys=True))
    return []


def _shards(samples: Iterator[bytes], header: int) -> Iterator[list[bytes]]:
    shard: list[bytes] = []
    size = header + 8
    for sample in samples:
        if shard and size + len(sample) + 4 > _BYTES:
            yield shard
            shard, size = [], header + 8
        shard.append(sample)
        size += len(sample) + 4
    yield shard


def _sample(dataset: LatentDataset, row: Row) -> bytes:
    columns = {name: _encoded(array) for name, array in as_arrays(dataset.stored(row.number)).items()}
    texts = {"caption": row.caption or "", "id": row.id, "name": row.name, "row": json.dumps(row.to_json())}
    columns |= {name: text.encode() for name, text in texts.items()}
    sizes = np.array([len(columns[name]) for name in sorted(columns)], "<u4").tobytes()
    columns["label"] = np.array([NO_LABEL if row.label is None else row.label], "<i8").tobytes()  # its size is fixed
    return sizes + b"".join(columns[name] for name in sorted(columns))


def _encoded(array: "np.ndarray[Any, Any]") -> bytes:
    """The type's number, the axes' number and how wide their lengths are, the lengths, the values."""
    width = 0 if max(array.shape) < 1 << 8 else 1
    head = bytes([_DTYPES[array.dtype.name], array.ndim << 2 | width])
    return head + np.array(array.shape, f"<u{1 << width}").tobytes() + array.tobytes()
