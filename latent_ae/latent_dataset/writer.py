"""Makes the shards of one process. A shard depends on its images alone, not on other shards, processes or timing."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from latent_ae.data import DataError
from latent_ae.data.loader import data_loader
from latent_ae.device import one_thread
from latent_ae.io.pixel_format import Array
from latent_ae.latent_dataset.encoder import Encoded, Encoder
from latent_ae.latent_dataset.images import Images, Unusable, View, Views
from latent_ae.latent_dataset.manifest import Manifest
from latent_ae.latent_dataset.shard import write_shard
from latent_ae.latent_dataset.statistics import sums_of

_OPEN_PIXELS = 1 << 26
"""of images that wait for others of their size to fill a batch"""


def make_shards(
    folder: Path,
    manifest: Manifest,
    images: Images,
    encoder: Encoder,
    shards: Sequence[int],
    *,
    workers: int,
    stop: Callable[[], bool] = lambda: False,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Make and write these shards of `folder`, in this order.

    `workers` processes load images (0: this one), without effect on the result. `on_image` is called after each image.
    Once `stop` returns True, the current shard is dropped and the call returns. Raises DataError for a label or caption
    of another type, LatentDatasetError for an image that does not fit into memory, and OSError if a shard cannot be
    written; earlier shards are kept.
    """
    if not shards:
        return
    indices = list(chain.from_iterable(manifest.unit(number) for number in shards))
    views = iter(data_loader(Views(images, manifest.preprocessing), indices, workers=workers))
    with one_thread():
        for number in shards:
            maker = ShardMaker(encoder, manifest)
            for view in islice(views, len(manifest.unit(number))):
                if isinstance(view, DataError):
                    raise view
                maker.add(view)
                on_image()
                if stop():
                    return
            maker.write(folder, number)


@dataclass
class _Batch:
    """Images of one size that are encoded together."""

    images: list[Array] = field(default_factory=list)
    latents: "Future[list[Encoded]] | None" = None
    """of each, in their order; None until the batch is submitted"""


_Key = tuple[str, bool]
"""what latents follow from: the image's id, and whether it is its mirror image"""


class ShardMaker:
    """One shard: takes its images in order, encodes them in batches, and writes it."""

    def __init__(self, encoder: Encoder, manifest: Manifest) -> None:
        self._encoder, self._manifest = encoder, manifest
        self._rows: list[tuple[_Key, dict[str, Any]]] = []
        self._skipped: list[dict[str, str]] = []
        self._places: dict[_Key, tuple[_Batch, int]] = {}
        self._open: dict[tuple[int, ...], _Batch] = {}

    def add(self, view: View | Unusable) -> None:
        """Add an image; images with the same pixels share their latents.

        Raises LatentDatasetError if it does not fit into memory.
        """
        if isinstance(view, Unusable):
            self._skipped.append({"id": view.name, "reason": view.reason})
            return
        for flipped in (False, True) if self._manifest.preprocessing.flips else (False,):
            key = (view.row["id"], flipped)
            self._rows.append((key, {**view.row, "flipped": flipped}))
            if key not in self._places:
                self._encode(key, view.values[:, ::-1] if flipped else view.values)

    def write(self, folder: Path, number: int) -> None:
        """Wait for all latents, and write the shard. Raises OSError."""
        self._close_batches()
        kept: dict[str, list[Encoded]] = {}
        places: dict[_Key, dict[str, Any]] = {}
        left_out: dict[_Key, Encoded] = {}
        for key, (batch, place) in self._places.items():
            assert batch.latents is not None
            encoded = batch.latents.result()[place]
            if encoded.problem:
                left_out[key] = encoded
                continue
            group = kept.setdefault(encoded.grid, [])
            places[key] = {"row": len(group), "grid": encoded.grid}
            group.append(encoded)
        tensors = {
            f"{name}.{grid}": torch.stack([encoded.tensors[name] for encoded in group])
            for grid, group in kept.items()
            for name in group[0].tensors
        }
        pixels = sum(row["height"] * row["width"] for key, row in dict(self._rows).items() if key in places)
        sums = sums_of(tensors, pixels, self._manifest.encoder.codebook_size)
        bad = [(row["name"] + " (flipped)" * row["flipped"], key) for key, row in self._rows if key in left_out]
        record = {
            "rows": [{**row, **places[key]} for key, row in self._rows if key in places],
            "skipped": self._skipped + [{"id": name, "reason": left_out[key].problem} for name, key in bad],
            "nonfinite_images": len(left_out),
            "nonfinite_values": sum(encoded.bad_values for encoded in left_out.values()),
            "statistics": None if sums is None else sums.to_json(),
        }
        write_shard(folder, self._manifest, number, tensors, record)

    def _encode(self, key: _Key, image: Array) -> None:
        batch = self._open.setdefault(image.shape, _Batch())
        self._places[key] = (batch, len(batch.images))
        batch.images.append(image)
        if len(batch.images) == self._manifest.compute.batch_size:
            self._submit(self._open.pop(image.shape))
        elif sum(len(batch.images) * shape[0] * shape[1] for shape, batch in self._open.items()) > _OPEN_PIXELS:
            self._close_batches()

    def _close_batches(self) -> None:
        for batch in self._open.values():
            self._submit(batch)
        self._open.clear()

    def _submit(self, batch: _Batch) -> None:
        batch.latents = self._encoder.submit(batch.images)
        batch.images = []  # which take more memory than their latents
