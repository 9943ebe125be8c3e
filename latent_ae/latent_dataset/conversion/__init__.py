"""A data set of latents in the formats that other trainers read: one file and one line in TARGETS for each.

Each file names the trainer's reader and what it expects: raw or scaled latents, their type, shape and names.
"""

import json
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from latent_ae.io.atomic import placed

if TYPE_CHECKING:
    from latent_ae.latent_dataset.dataset import LatentDataset, Row

ORIGIN = "latents.json"
"""file beside those of the trainer: what the latents are"""

Writer: TypeAlias = "Callable[[LatentDataset, Iterator[Row], Path], list[str]]"
"""Writes the rows into an empty folder; returns notes for the user. Raises LatentDatasetError for latents that the
trainer cannot read, before the first row, and OSError."""


@dataclass(frozen=True)
class Target:
    """A format that another trainer reads."""

    summary: str
    """for the help"""
    writer: str
    """`module:function` of its Writer, in this package"""
    scaling: Literal["none", "model"] = "none"
    """of the rows' latents"""
    one_latent: bool = True
    """whether it takes one latent for each image, a sample or the mode, instead of mean and log-variance as stored"""


TARGETS = {
    "lightningdit": Target(
        "LightningDiT: shards of latents, latents of mirror images, and labels", "lightningdit:write"
    ),
    "fast-dit": Target("fast-DiT: a .npy file for each image and label", "fast_dit:write", scaling="model"),
    "kohya-sd": Target("kohya-ss/sd-scripts, Stable Diffusion 1 and 2: .npz files beside images", "kohya:write_sd"),
    "kohya-sdxl": Target("the same for SDXL", "kohya:write_sdxl"),
    "kohya-sd3": Target("the same for Stable Diffusion 3", "kohya:write_sd3"),
    "kohya-flux": Target("the same for FLUX", "kohya:write_flux"),
    "webdataset": Target("tar files", "webdataset:write", one_latent=False),
    "mds": Target("MosaicML Streaming", "mds:write", one_latent=False),
}


def convert(
    folder: Path,
    target: str,
    out: Path,
    *,
    posterior: Literal["sample", "mode"] | None = None,
    seed: int | None = None,
    on_row: Callable[[int], object] = lambda _total: None,
) -> tuple[int, list[str]]:
    """Write a data set of latents for another trainer, into a new folder, completely or not at all.

    Args:
        folder: output of train/encode_dataset.py.
        target: a key of TARGETS.
        out: the new folder.
        posterior: one sample of each, or its mode; None: a sample if the log-variance was kept.
        seed: of the samples; None: 0.
        on_row: called after each row with the number of rows.

    Returns the number of rows, and notes for the user.

    Raises LatentDatasetError if the folder is not a complete data set of latents or the trainer cannot read them,
    PlaceTakenError if `out` exists, OSError.
    """
    from latent_ae.latent_dataset.dataset import LatentDataset  # noqa: PLC0415  # torch takes seconds, and help needs TARGETS
    from latent_ae.latent_dataset.manifest import LatentDatasetError  # noqa: PLC0415

    chosen = TARGETS[target]
    write = cast("Writer", pkgutil.resolve_name(f"{__name__}.{chosen.writer}"))
    if not chosen.one_latent and (posterior is not None or seed is not None):
        raise LatentDatasetError(
            f"--posterior and --seed have no effect with {target}, which keeps mean and log-variance"
        )
    dataset = LatentDataset(folder, posterior=posterior, scaling=chosen.scaling, seed=seed or 0)
    if seed is not None and dataset.posterior == "mode":
        raise LatentDatasetError("--seed has no effect: the mode of each posterior is taken")

    def counted() -> "Iterator[Row]":
        for row in dataset.rows():
            yield row
            on_row(len(dataset))

    with placed([out]) as beside:
        place = beside / out.name
        place.mkdir()
        notes = write(dataset, counted(), place)
        (place / ORIGIN).write_text(json.dumps(_origin(dataset, chosen, seed or 0), indent=1) + "\n", encoding="utf-8")
    return len(dataset), notes


def _origin(dataset: "LatentDataset", target: Target, seed: int) -> dict[str, object]:
    manifest = dataset.manifest
    chosen = {"draw": "sample", "seed": seed} if dataset.posterior == "sample" else {"draw": "mode"}
    pixels = manifest.preprocessing.pixel_format
    return {
        "encoder_identity": manifest.encoder.identity,
        "latents_fingerprint": manifest.fingerprint,
        "model": manifest.model.name,
        "scaling_factor": manifest.model.scaling_factor,
        "shift_factor": manifest.model.shift_factor,
        **(chosen if target.one_latent else {}),
        "label_names": manifest.label_names,
        **({} if pixels is None else {"pixel_format": asdict(pixels)}),
    }
