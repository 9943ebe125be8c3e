"""kohya-ss/sd-scripts: read by library/strategy_base.py, as --cache_latents_to_disk writes it.

    cat/a_0640x0480_sd.npz   for the image cat/a.png of 640 x 480 pixels: latents [c,h,w] float32,
                             latents_flipped (if there are mirror images), original_size, crop_ltrb
    metadata.jsonl           image_path, caption and image_size of each: the images themselves are not needed

Latents are samples of the posterior. Those of SD, SDXL and SD3 are raw: training scales them; those of FLUX are scaled.
The names in the files of SD3 and FLUX end in the size of the latents, _HxW.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from latent_ae.config.section import size_of
from latent_ae.evaluation.metrics.latents import Scaling
from latent_ae.latent_dataset.conversion.rows import require_one_shape, with_mirror_images
from latent_ae.latent_dataset.dataset import LatentDataset, Row
from latent_ae.latent_dataset.manifest import LatentDatasetError

_FACTOR = 8


@dataclass(frozen=True)
class Model:
    """What is trained."""

    title: str
    suffix: str
    channels: int
    scaling_factor: float
    shift_factor: float
    """that sd-scripts applies, whatever the autoencoder's config says"""
    sizes_in_names: bool
    scaled: bool
    """whether the files hold (z - shift_factor) * scaling_factor"""


def write(model: Model, dataset: LatentDataset, rows: Iterator[Row], out: Path) -> list[str]:
    """See `Writer`."""
    resolution = _require_squares(model, dataset)
    size = f"_{resolution // _FACTOR}x{resolution // _FACTOR}" if model.sizes_in_names else ""
    images = mirrored = left_out = 0
    with (out / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for row, mirror in with_mirror_images(rows):
            if row.flipped:  # the latents of the image itself are not finite
                left_out += 1
                continue
            images += 1
            mirrored += mirror is not None
            arrays: dict[str, Any] = {"latents": _values(model, row)}
            if mirror is not None:
                arrays["latents_flipped"] = _values(model, mirror)
            original = (row.original_width, row.original_height)
            arrays |= {"original_size": np.array(original), "crop_ltrb": np.array(_crop(resolution, *original))}
            file = out / _file_name(model, row)
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():
                raise LatentDatasetError(
                    f"{row.name} and another image differ in their suffix alone, and sd-scripts has one file for both: "
                    "rename one of them and encode again"
                )
            stream = io.BytesIO()
            np.savez(stream, **{f"{name}{size}": array for name, array in arrays.items()})
            file.write_bytes(stream.getvalue())
            entry = {"image_path": row.name, "caption": row.caption or "", "image_size": original}
            metadata.write(json.dumps(entry, ensure_ascii=False) + "\n")
    notes = [f"{images} images, {mirrored} of them with the latents of their mirror image"]
    if left_out:
        notes.append(f"{left_out} mirror images are left out, whose images have no latents")
    notes.append(
        f"train with --cache_latents_to_disk, resolution = {resolution} and enable_bucket = false; image_dir and "
        "metadata_file (metadata.jsonl) are in this folder, or copy the .npz files beside the images"
    )
    given = (dataset.manifest.model.scaling_factor, dataset.manifest.model.shift_factor or 0.0)
    if given != (model.scaling_factor, model.shift_factor):
        notes.append(
            f"sd-scripts always takes scaling_factor {model.scaling_factor} and shift_factor {model.shift_factor} for "
            f"{model.title}; this model's config has {given[0]} and {given[1]}"
        )
    return notes


def _require_squares(model: Model, dataset: LatentDataset) -> int:
    """The side of the images in pixels. Raises LatentDatasetError for latents that sd-scripts does not read."""
    shape, manifest = require_one_shape(dataset), dataset.manifest
    if (manifest.encoder.factor, shape[0]) != (_FACTOR, model.channels):
        raise LatentDatasetError(
            f"{dataset.folder} holds latents of {shape[0]} channels, {manifest.encoder.factor} pixels a position; "
            f"{model.title} has {model.channels} channels, {_FACTOR} pixels a position"
        )
    resolution, fit = manifest.preprocessing.resolution, manifest.preprocessing.fit
    height, width = size_of(resolution or 0)
    if not height or height != width or height % _FACTOR or fit != "crop":
        raise LatentDatasetError(
            f"{dataset.folder} was encoded with resolution {resolution} and data.fit {fit}: sd-scripts needs cropped "
            f"squares of a multiple of {_FACTOR} pixels, encode with --resolution"
        )
    return height


def _values(model: Model, row: Row) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    latents = row.latents
    if model.scaled:
        latents = Scaling(model.scaling_factor, model.shift_factor).scaled(latents)
    return latents.numpy()


def _file_name(model: Model, row: Row) -> str:
    """Relative to the folder. Raises LatentDatasetError for a name that leads out of it."""
    place = PurePosixPath(row.name)
    if place.is_absolute() or ".." in place.parts or not place.name:
        raise LatentDatasetError(
            f"the image's name {row.name!r} is not a path below a folder: rename it and encode again"
        )
    return f"{place.with_suffix('')}_{row.original_width:04d}x{row.original_height:04d}{model.suffix}"


def _crop(side: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom as sd-scripts gives them to SDXL: of the whole image fitted into the square.

    So `BucketManager.get_crop_ltrb` computes them, and a model must be given what it is given for other images.
    """
    shown_width, shown_height = (side * width / height, side) if width < height else (side, side / (width / height))
    left, top = (side - shown_width) // 2, (side - shown_height) // 2
    return left, top, left + shown_width, top + shown_height


write_sd = partial(
    write, Model("Stable Diffusion 1 and 2", "_sd.npz", 4, 0.18215, 0.0, sizes_in_names=False, scaled=False)
)
write_sdxl = partial(write, Model("SDXL", "_sdxl.npz", 4, 0.13025, 0.0, sizes_in_names=False, scaled=False))
write_sd3 = partial(
    write, Model("Stable Diffusion 3", "_sd3.npz", 16, 1.5305, 0.0609, sizes_in_names=True, scaled=False)
)
write_flux = partial(write, Model("FLUX", "_flux.npz", 16, 0.3611, 0.1159, sizes_in_names=True, scaled=True))
