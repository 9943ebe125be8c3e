"""Requirements of several trainers, rows in groups, and arrays as bytes."""

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from latent_ae.latent_dataset.dataset import LatentDataset, Row
from latent_ae.latent_dataset.manifest import LatentDatasetError

T = TypeVar("T")


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """So many items at a time; the last may be fewer."""
    iterator = iter(items)
    while batch := list(islice(iterator, count)):
        yield batch


def require_one_shape(dataset: LatentDataset) -> tuple[int, int, int]:
    """The shape [c,h,w] of all latents. Raises LatentDatasetError for codes, and for several sizes."""
    if dataset.manifest.kind == "vq_indices":
        raise LatentDatasetError(
            f"{dataset.folder} holds codes of a VQModel, this trainer reads latents of an AutoencoderKL: convert to "
            "webdataset or mds"
        )
    grids = dataset.table()["grid"].unique().to_pylist()
    if len(grids) > 1:
        raise LatentDatasetError(
            f"{dataset.folder} holds latents of {len(grids)} sizes ({', '.join(grids[:3])}), this trainer reads one: "
            "encode with --resolution, or convert to webdataset or mds"
        )
    height, width = map(int, grids[0].split("x"))
    return dataset.manifest.encoder.channels, height, width


def require_labels(dataset: LatentDataset) -> int:
    """The number of classes, labels being 0, 1, ... Raises LatentDatasetError if a row has no label."""
    labels = dataset.table()["label"]
    if labels.null_count:
        raise LatentDatasetError(
            f"{labels.null_count} of {len(labels)} rows of {dataset.folder} have no label, and this trainer needs one "
            "for each: encode images in folders named by class, or give --label_column"
        )
    return int(max(labels.to_pylist())) + 1


def with_mirror_images(rows: Iterable[Row]) -> Iterator[tuple[Row, Row | None]]:
    """Each image's row, and that of its mirror image if there is one: one of both may be left out as not finite."""
    for _, of_image in groupby(rows, key=lambda row: row.source_index):
        first, *more = of_image
        yield first, more[0] if more else None


def as_arrays(stored: Mapping[str, Tensor]) -> "dict[str, np.ndarray[Any, Any]]":
    """Stored tensors for numpy, which has no bfloat16: that becomes float32, of the same values."""
    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for name, tensor in stored.items()
    }


def npy(array: "np.ndarray[Any, Any]") -> bytes:
    """The content of a .npy file: numpy's own error for a full disk does not name the cause, writing bytes does."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
