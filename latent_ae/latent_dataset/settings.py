"""What turning a data set into latents asks for."""

import shlex
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config import DataConfig, Section, flatten
from latent_ae.io.latent_file.latents import Precision
from latent_ae.latent_dataset.manifest import Manifest

Count = Annotated[int, Field(ge=1)]
Compute = Literal["exact", "fp32", "bf16", "fp16"]

_BATCH = 8


class EncodeConfig(Section):
    """One data set turned into latents."""

    model: str | None = None
    """a model directory, a single file or a hub id; has to be given"""
    out: str | None = None
    """folder of the latents; has to be given. What is there of the same work is kept"""
    part: Literal["train", "heldout", "all"] = "train"
    """part of the data; all: the training part, then the held-out one"""
    resolution: Annotated[int, Field(ge=8)] | None = None
    """side in pixels to which the largest centred square of each image is resized; null: whole images at their size"""
    flips: bool = False
    """encode mirror images too, as rows of their own: an encoder's latents of one are not the mirrored other's"""
    logvar: bool = True
    """keep the posterior's log-variance beside its mean, so that training can draw; no effect on what has none"""
    dtype: Precision = "float16"
    """of the stored numbers; a VQModel's codes are whole numbers whatever it is"""
    precision: Compute = "exact"
    """arithmetic of the encoder: exact is float32 with every image alone; the others take batches"""
    batch_size: Count | None = None
    """fp32, bf16, fp16: images that are computed together; 8 unless given"""
    tile: Annotated[int, Field(ge=1)] | Literal["off"] = "off"
    """encode images larger than this many pixels a side in overlapping tiles of it: an approximation, for images that
    do not fit into memory whole; off: never"""
    shard_images: Count = 1024
    """images of a shard, which one process makes whole: a kill loses at most the shards that were being made"""
    label_column: str | None = None
    """data.source hub: column with the labels, whole numbers or names of classes"""
    caption_column: str | None = None
    """data.source hub: column with the captions"""
    data: DataConfig = DataConfig()

    @property
    def images_at_once(self) -> int:
        """What goes through the encoder together, 1 with exact."""
        return 1 if self.precision == "exact" else self.batch_size or _BATCH

    @property
    def tile_pixels(self) -> int | None:
        """Side of a tile; None where images go through whole."""
        return None if self.tile == "off" else self.tile

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.precision == "exact" and self.batch_size is not None:
            raise ValueError(
                "batch_size has no effect with precision exact, which takes every image alone: leave it out, or give "
                "precision fp32, bf16 or fp16"
            )
        if self.resolution is not None and self.tile != "off" and self.resolution <= self.tile:
            raise ValueError(
                f"tile {self.tile} has no effect on images of resolution {self.resolution}, which are not larger: "
                "leave it out"
            )
        columns = [name for name in ("label_column", "caption_column") if getattr(self, name)]
        if columns and self.data.source != "hub":
            raise ValueError(f"{', '.join(columns)} has an effect only with data.source hub, got {self.data.source}")
        if self.data.source == "stream":
            raise ValueError(
                "data.source stream cannot be turned into latents: shards are cut from images by index; give "
                "data.source hub with the same data.path, which unpacks the data set once"
            )
        return self


def command(folder: Path, manifest: Manifest) -> str:
    """The command that made a folder, in one line: run again, it makes what is missing or damaged."""
    exact, codes = manifest.compute.precision == "exact", manifest.kind == "vq_indices"
    config = EncodeConfig.model_validate(
        {
            "model": manifest.model.name,
            "out": str(folder),
            "part": manifest.images.part,
            "resolution": manifest.preprocessing.resolution,
            "flips": manifest.preprocessing.flips,
            "logvar": manifest.kind != "mean",
            "dtype": EncodeConfig().dtype if codes else manifest.dtype,
            "precision": manifest.compute.precision,
            "batch_size": None if exact else manifest.compute.batch_size,
            "tile": manifest.compute.tile or "off",
            "shard_images": manifest.images.shard_images,
            "label_column": manifest.images.label_column,
            "caption_column": manifest.images.caption_column,
            "data": manifest.data,
        }
    )
    usual = flatten(EncodeConfig().model_dump(mode="json"))
    given = {
        name: value
        for name, value in flatten(config.model_dump(mode="json")).items()
        if value != usual[name] or name == "data.source"
    }
    options = (word for name, value in given.items() for word in (f"--{name}", *_words(value)))
    return shlex.join(["python", "train/encode_dataset.py", *options])


def _words(value: object) -> list[str]:
    """As a command line takes it."""
    if isinstance(value, list):
        return [str(each) for each in value]
    return [str(value).lower() if isinstance(value, bool) else str(value)]
