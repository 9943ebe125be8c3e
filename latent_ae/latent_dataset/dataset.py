"""A folder of latents as a torch `Dataset`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from latent_ae.errors import one_line
from latent_ae.evaluation.metrics.latents import Scaling
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.latent_dataset.index import INDEX, changed_files, read_statistics
from latent_ae.latent_dataset.manifest import TENSORS, LatentDatasetError, Manifest, read_manifest
from latent_ae.latent_dataset.settings import command
from latent_ae.models.posterior import sample_posterior
from latent_ae.randomness import torch_generator

NO_LABEL = -1
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Row:
    """A row of the index, and its latents, which are read on access."""

    dataset: "LatentDataset" = field(repr=False, compare=False)
    number: int
    """`dataset[number]` is its item"""
    id: str
    """sha256 over the 8-bit pixels of the whole image, in hex"""
    name: str
    """of the image in its data set"""
    label: int | None
    caption: str | None
    height: int
    width: int
    """of the image as it was encoded, in pixels"""
    original_height: int
    original_width: int
    crop: tuple[int, int, int, int]
    """left, top, right, bottom of the part that was encoded, in pixels of the whole image"""
    flipped: bool
    """whether the latents are those of the mirror image"""
    source_index: int
    """of the image in its data set; an image and its mirror image have the same"""

    @property
    def latents(self) -> Tensor:
        """As in `dataset[number]`: sample or mode, and scaled if the data set was opened with a scaling."""
        return self.dataset[self.number]["latents"]

    def to_json(self) -> dict[str, Any]:
        """The row without its label and caption."""
        left_out = ("dataset", "number", "label", "caption")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}


class LatentDataset(Dataset[dict[str, Tensor]]):
    """Rows of the index by number, in the data set's order. Picklable; files are opened on first use.

    An item has `latents`, [c,h,w] float32 or the codes of a VQModel [h,w] int64; `label`, int64, -1 where there is
    none; and `id`, [32] uint8, the image's identity. It is a pure function of (seed, epoch, number) in any worker
    process. `rows` gives the rest of the index: names, captions, sizes.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        posterior: Literal["sample", "mode"] | None = None,
        scaling: Literal["none", "model", "measured"] = "none",
        flipped: bool = True,
        duplicates: bool = True,
        seed: int = 0,
    ) -> None:
        """
        Args:
            folder: output of train/encode_dataset.py.
            posterior: give a sample of it, or its mode; None: a sample if the log-variance was kept.
            scaling: give (z - shift) * scale: `model` with the factors of the model's config, which pipelines undo,
                `measured` with those of stats.json.
            flipped: include the latents of mirror images, if there are any.
            duplicates: include rows whose image is the same as that of an earlier row.
            seed: of the samples from the posterior.

        Raises LatentDatasetError if the folder is not a complete data set of latents or lacks what is asked for.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        kind = self.manifest.kind
        if posterior not in ("sample", "mode", None):
            raise LatentDatasetError(f"posterior must be sample, mode or None, got {posterior}")
        if posterior == "sample" and kind != "moments":
            raise LatentDatasetError(
                f"{folder} holds {kind} without log-variances, so there is no posterior to sample: take the mode"
            )
        self.posterior = posterior or ("sample" if kind == "moments" else "mode")
        self._seed = seed
        self._epoch = 0
        self._open: dict[int, dict[str, Tensor]] = {}
        statistics = self._read_index(flipped=flipped, duplicates=duplicates)
        self.scaling = _scaling(self.folder, self.manifest, statistics, scaling)
        self._require_shards()

    @property
    def pixel_format(self) -> PixelFormat:
        """What the values of the images mean that the latents are of."""
        return self.manifest.preprocessing.pixels

    def set_epoch(self, epoch: int) -> None:
        """Sample anew from the posteriors. Workers that outlive an epoch (persistent_workers) do not see the change."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Raises LatentDatasetError if its shard can no longer be read."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} rows, got {number}")
        number %= len(self)
        stored = self.stored(number)
        if self.manifest.kind == "vq_indices":
            latents = stored["indices"].to(torch.int64)
        else:
            # A copy: float32 would otherwise be the memory-mapped file itself.
            latents = stored["mean"].to(torch.float32, copy=True)
            if self.posterior == "sample":
                # By the row's number in the index, so that leaving out other rows changes no sample.
                generator = torch_generator(self._seed, "latents", self._epoch, int(self._numbers[number]))
                noise = torch.randn(latents.shape, generator=generator)
                latents = sample_posterior(latents, stored["logvar"].float(), noise)
            if self.scaling is not None:
                latents = self.scaling.scaled(latents)
        return {
            "latents": latents,
            "label": torch.tensor(int(self._labels[number])),
            "id": torch.from_numpy(self._ids[number].copy()),
        }

    def rows(self) -> Iterator["Row"]:
        """The rows in their order. Reads the index again."""
        number = 0
        for batch in self.table().drop_columns(["shard", "row", "grid"]).to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield Row(dataset=self, number=number, **{**row, "crop": tuple(row["crop"])})
                number += 1

    def table(self) -> Any:
        """These rows of the index as a pyarrow.Table. Reads the index again."""
        return pq.read_table(self.folder / INDEX).take(self._numbers)

    def stored(self, number: int) -> dict[str, Tensor]:
        """The tensors of a row as stored, read-only: `mean` and `logvar` [c,h,w], or a VQModel's `indices` [h,w]."""
        grid, row = self._grids[self._grid_numbers[number]], int(self._rows[number])
        tensors = self._tensors(int(self._shards[number]))
        return {kind: tensors[f"{kind}.{grid}"][row] for kind in TENSORS[self.manifest.kind]}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def _tensors(self, shard: int) -> dict[str, Tensor]:
        """A shard's tensors, mapped into memory: values are read on access."""
        if shard not in self._open:
            path = self.folder / self._files[shard]
            try:
                with safe_open(path, "pt") as file:
                    self._open[shard] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
            except (SafetensorError, OSError) as error:
                raise self._incomplete(f"{self._files[shard]} cannot be read: {one_line(error)}") from None
        return self._open[shard]

    def _read_index(self, *, flipped: bool, duplicates: bool) -> dict[str, Any]:
        """Take the rows that are asked for; returns the statistics."""
        path = self.folder / INDEX
        if not path.is_file():
            raise self._incomplete(f"it has no {INDEX}")
        try:
            statistics = read_statistics(self.folder, self.manifest)
        except LatentDatasetError as error:
            raise self._incomplete(str(error)) from None
        recorded = {name: digest for name, digest in statistics["files"].items() if name == INDEX}
        if changed_files(self.folder, recorded):
            raise self._incomplete(f"{INDEX} was damaged or changed")
        columns = ["id", "shard", "row", "grid", "label", "flipped"]
        try:
            table = pq.read_table(path, columns=columns)
        except (OSError, ValueError) as error:  # pyarrow's errors are either
            raise self._incomplete(f"{INDEX} cannot be read: {one_line(error)}") from None
        ids = np.frombuffer(bytes.fromhex("".join(table["id"].to_pylist())), np.uint8).reshape(-1, 32)
        mirrored = table["flipped"].to_numpy()
        keep = np.ones(len(table), bool) if flipped else ~mirrored
        if not duplicates:
            keyed = np.concatenate([ids, mirrored[:, None].astype(np.uint8)], axis=1)
            keys = np.ascontiguousarray(keyed).view(f"V{keyed.shape[1]}")[:, 0]
            first = np.zeros(len(table), bool)
            first[np.unique(keys, return_index=True)[1]] = True
            keep &= first
        self._numbers = np.flatnonzero(keep)
        table = table.take(self._numbers)
        self._ids = ids[self._numbers]
        files, grids = (table[name].combine_chunks().dictionary_encode() for name in ("shard", "grid"))
        self._files: list[str] = files.dictionary.to_pylist()
        self._shards = files.indices.to_numpy()
        self._grids: list[str] = grids.dictionary.to_pylist()
        self._grid_numbers = grids.indices.to_numpy()
        self._rows = table["row"].to_numpy()
        self._labels = table["label"].fill_null(NO_LABEL).to_numpy()
        return statistics

    def _require_shards(self) -> None:
        """Raises LatentDatasetError unless every row is in its shard, as far as the headers of the shards say."""
        needed = np.zeros((len(self._files), len(self._grids)), np.int64)
        np.maximum.at(needed, (self._shards, self._grid_numbers), self._rows + 1)
        for shard, grid in np.argwhere(needed):
            for kind in TENSORS[self.manifest.kind]:
                tensor = self._tensors(int(shard)).get(f"{kind}.{self._grids[grid]}")
                if tensor is None or len(tensor) < needed[shard, grid]:
                    raise self._incomplete(f"{self._files[shard]} does not hold the rows of {INDEX}")

    def _incomplete(self, reason: str) -> LatentDatasetError:
        return LatentDatasetError(
            f"{self.folder} is not complete: {reason}; to make what is missing or damaged, run: "
            f"{command(self.folder, self.manifest)}"
        )


def _scaling(folder: Path, manifest: Manifest, statistics: dict[str, Any], wanted: str) -> Scaling | None:
    if wanted == "none":
        return None
    if manifest.kind == "vq_indices":
        raise LatentDatasetError(f"scaling {wanted}: {folder} holds codes, whole numbers: take none")
    if wanted == "model":
        scale, shift = manifest.model.scaling_factor, manifest.model.shift_factor
    elif wanted == "measured":
        latents = statistics["latents"]
        scale, shift = latents["scaling_factor"], latents["shift_factor"]
    else:
        raise LatentDatasetError(f"scaling {wanted} is unknown: take none, model or measured")
    if scale is None:
        raise LatentDatasetError(f"scaling {wanted}: there is no scaling_factor for the latents of {folder}: take none")
    return Scaling(scale, shift or 0.0)
