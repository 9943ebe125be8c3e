"""Makes the shards of one process. A shard depends on its images alone, not on other shards, processes or timing."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent_ae.data import DataError
from latent_ae.data.loader import data_loader
from latent_ae.device import one_thread
from latent_ae.io.image import Pixels
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
            for index in manifest.unit(number):
                view = next(views)
                if isinstance(view, DataError):
                    raise view
                maker.add(index, view)
                on_image()
                if stop():
                    return
            maker.write(folder, number)


class ShardMaker:
    """One shard: takes its images in order, encodes them in batches, and writes it."""

    def __init__(self, encoder: Encoder, manifest: Manifest) -> None:
        self._encoder, self._manifest = encoder, manifest
        self._rows: list[tuple[dict[str, Any], _Latents]] = []
        self._skipped: list[dict[str, str]] = []
        self._known: dict[tuple[str, bool], _Latents] = {}
        self._open: dict[tuple[int, ...], list[tuple[Pixels, _Latents]]] = {}

    def add(self, index: int, view: View | Unusable) -> None:
        """Add image `index`; images with the same pixels share their latents.

        Raises LatentDatasetError if it does not fit into memory.
        """
        if isinstance(view, Unusable):
            self._skipped.append({"id": view.name, "reason": view.reason})
            return
        for flipped in (False, True) if self._manifest.preprocessing.flips else (False,):
            key = (view.identity, flipped)
            if key not in self._known:
                self._known[key] = self._encoded(view.pixels[:, ::-1] if flipped else view.pixels)
            self._rows.append((_described(index, view, flipped=flipped), self._known[key]))

    def write(self, folder: Path, number: int) -> None:
        """Wait for all latents, and write the shard. Raises OSError."""
        self._close_batches()
        kept: dict[str, list[_Latents]] = {}
        for latents in self._known.values():
            latents.fetch()
            if not latents.bad_values:
                group = kept.setdefault(latents.grid, [])
                latents.row = len(group)
                group.append(latents)
        tensors = {
            f"{name}.{grid}": torch.stack([latents.tensors[name] for latents in group])
            for grid, group in kept.items()
            for name in group[0].tensors
        }
        pixels = sum(latents.pixels for group in kept.values() for latents in group)
        sums = sums_of(tensors, pixels, self._manifest.encoder.codebook_size)
        left_out = [latents for latents in self._known.values() if latents.bad_values]
        record = {
            "rows": [
                {**row, "row": latents.row, "grid": latents.grid}
                for row, latents in self._rows
                if not latents.bad_values
            ],
            "skipped": self._skipped
            + [
                {"id": row["name"] + " (flipped)" * row["flipped"], "reason": latents.problem}
                for row, latents in self._rows
                if latents.bad_values
            ],
            "nonfinite_images": len(left_out),
            "nonfinite_values": sum(latents.bad_values for latents in left_out),
            "statistics": None if sums is None else sums.to_json(),
        }
        write_shard(folder, self._manifest, number, tensors, record)

    def _encoded(self, pixels: Pixels) -> "_Latents":
        latents = _Latents(pixels.shape[0] * pixels.shape[1])
        batch = self._open.setdefault(pixels.shape, [])
        batch.append((pixels, latents))
        if len(batch) == self._manifest.compute.batch_size:
            self._submit(self._open.pop(pixels.shape))
        elif sum(waiting.pixels for batch in self._open.values() for _, waiting in batch) > _OPEN_PIXELS:
            self._close_batches()
        return latents

    def _close_batches(self) -> None:
        for batch in self._open.values():
            self._submit(batch)
        self._open.clear()

    def _submit(self, batch: "list[tuple[Pixels, _Latents]]") -> None:
        future = self._encoder.submit([pixels for pixels, _ in batch])
        for place, (_, latents) in enumerate(batch):
            latents.future, latents.place = future, place


@dataclass
class _Latents:
    """The latents of one image."""

    pixels: int
    """of the image, their number"""
    future: "Future[Encoded] | None" = None
    """of its batch; None until that is submitted"""
    place: int = -1
    """in its batch"""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    grid: str = ""
    bad_values: int = 0
    problem: str = ""
    row: int = -1

    def fetch(self) -> None:
        """Wait for the batch, and take the image's tensors from it."""
        assert self.future is not None
        encoded = self.future.result()
        self.tensors = {name: tensor[self.place] for name, tensor in encoded.tensors.items()}
        height, width = next(iter(self.tensors.values())).shape[-2:]
        self.grid = f"{height}x{width}"
        bad, overflown = int(encoded.nonfinite[self.place]), int(encoded.overflown[self.place])
        self.bad_values = bad + overflown
        if bad:
            self.problem = f"the encoder gives {bad} values that are not finite"
        elif overflown:
            dtype = str(next(iter(self.tensors.values())).dtype).removeprefix("torch.")
            self.problem = f"{overflown} of its latents are too large for {dtype}: store bfloat16 or float32"


def _described(index: int, view: View, *, flipped: bool) -> dict[str, Any]:
    """The row of an image in the index, without the place of its latents."""
    return {
        "id": view.identity,
        "name": view.name,
        "source_index": index,
        "height": view.pixels.shape[0],
        "width": view.pixels.shape[1],
        "flipped": flipped,
        "original_height": view.original[0],
        "original_width": view.original[1],
        "crop": list(view.crop),
        "label": view.label,
        "caption": view.caption,
    }
