"""chuanyangjin/fast-DiT: read by CustomDataset of train.py as extract_features.py writes it.

    imagenet256_features/00000000.npy   latents [1,c,h,w] float32
    imagenet256_labels/00000000.npy     label [1] int64

Latents are samples of the posterior, scaled: the reader takes them as they are, and sample.py divides by 0.18215,
which here is the scaling_factor of the model's config. Both folders are sorted by name and paired by place.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latent_ae.latent_dataset.conversion.rows import npy, require_labels, require_one_shape
from latent_ae.latent_dataset.dataset import LatentDataset, Row

_SCALING = 0.18215


def write(dataset: LatentDataset, rows: Iterator[Row], out: Path) -> list[str]:
    """See `Writer`."""
    require_one_shape(dataset)
    classes = require_labels(dataset)
    features, labels = (out / f"imagenet256_{name}" for name in ("features", "labels"))
    features.mkdir()
    labels.mkdir()
    for row in rows:
        (features / f"{row.number:08d}.npy").write_bytes(npy(row.latents[None].numpy()))
        (labels / f"{row.number:08d}.npy").write_bytes(npy(np.array([row.label], np.int64)))
    notes = [f"for train.py: --num-classes {classes}"]
    assert dataset.scaling is not None, "opened with the model's"
    scale, shift = dataset.scaling.scaling_factor, dataset.scaling.shift_factor
    if (scale, shift) != (_SCALING, 0):
        notes.append(
            f"in sample.py, replace samples / {_SCALING} by samples / {scale}{f' + {shift}' if shift else ''}: the "
            "scale of this model"
        )
    return notes
