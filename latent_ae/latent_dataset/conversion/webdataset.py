"""webdataset: tar files, read by webdataset.WebDataset(...).decode().

    00000.tar   for each row 00000000.mean.npy and 00000000.logvar.npy [c,h,w] (of a VQModel 00000000.indices.npy),
                00000000.cls (if it has a label), 00000000.txt (if it has a caption), 00000000.json (the rest)

Latents are raw, and as they are stored: float16 or float32 (bfloat16, which numpy does not have, as float32). So each
epoch can sample anew: mean + exp(logvar / 2) * noise.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from latent_ae.latent_dataset.conversion.rows import as_arrays, batched, npy
from latent_ae.latent_dataset.dataset import LatentDataset, Row

_ROWS = 10_000
"""of a tar file"""


def write(dataset: LatentDataset, rows: Iterator[Row], out: Path) -> list[str]:
    """See `Writer`."""
    for number, of_file in enumerate(batched(rows, _ROWS)):
        with tarfile.open(out / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in of_file:
                for suffix, content in _parts(dataset, row):
                    member = tarfile.TarInfo(f"{row.number:08d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return []


def _parts(dataset: LatentDataset, row: Row) -> Iterator[tuple[str, bytes]]:
    for name, array in as_arrays(dataset.stored(row.number)).items():
        yield f"{name}.npy", npy(array)
    if row.label is not None:
        yield "cls", str(row.label).encode()
    if row.caption is not None:
        yield "txt", row.caption.encode()
    yield "json", json.dumps(row.to_json()).encode()
