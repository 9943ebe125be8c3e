"""hustvl/LightningDiT: read by datasets/img_latent_dataset.py as extract_features.py writes it.

    latents_rank00_shard00000.safetensors   latents and latents_flip [n,c,h,w] float32, labels [n] int64
    latents_stats.pt                        {"mean", "std"} [1,c,1,1] float32, of `latents`

Latents are samples of the posterior, raw: the reader takes `latents` or `latents_flip`, with even chances, and gives
(z - mean) / std. Without statistics it computes them from 10,000 rows, and every process writes the file.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from latent_ae.evaluation.metrics.moments import Moments
from latent_ae.latent_dataset.conversion.rows import (
    batched,
    require_labels,
    require_one_shape,
    with_mirror_images,
)
from latent_ae.latent_dataset.dataset import LatentDataset, Row

_ROWS, _BYTES = 10_000, 1 << 28
"""at most in a shard, which is held in memory"""


def write(dataset: LatentDataset, rows: Iterator[Row], out: Path) -> list[str]:
    """See `Writer`."""
    channels, height, width = require_one_shape(dataset)
    classes = require_labels(dataset)
    rows_of_shard = max(1, min(_ROWS, _BYTES // (2 * 4 * channels * height * width)))
    moments: Moments | None = None
    images = alone = 0
    for number, pairs in enumerate(batched(with_mirror_images(rows), rows_of_shard)):
        latents = torch.stack([row.latents for row, _ in pairs])
        flipped = torch.stack([(mirror or row).latents for row, mirror in pairs])
        images += len(pairs)
        alone += sum(mirror is None for _, mirror in pairs)
        save_file(
            {"latents": latents, "latents_flip": flipped, "labels": torch.tensor([row.label for row, _ in pairs])},
            out / f"latents_rank00_shard{number:05d}.safetensors",
        )
        values = Moments.of(latents.double().transpose(0, 1).flatten(1).T)
        moments = values if moments is None else moments.merged(values)
    assert moments is not None, "a data set of latents has rows"
    std = (moments.deviations / max(1, moments.count - 1)).sqrt()
    statistics = {"mean": moments.mean, "std": std}
    stream = io.BytesIO()
    torch.save({name: value.float().reshape(1, -1, 1, 1) for name, value in statistics.items()}, stream)
    (out / "latents_stats.pt").write_bytes(stream.getvalue())
    notes = [f"{images} images, {images - alone} of them with the latents of their mirror image"]
    if alone:
        notes.append(
            f"latents_flip repeats the latents of the other {alone}: encode_dataset.py --flips true makes both"
        )
    return [*notes, f"in the config: latent_norm: true, latent_multiplier: 1.0, num_classes: {classes}"]
