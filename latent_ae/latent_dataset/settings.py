"""Settings of a data set of latents: to its manifest, and back to the command that made it."""

import shlex
from pathlib import Path
from typing import Annotated, Literal, Self

import diffusers
import torch
from pydantic import Field, model_validator

from latent_ae._version import __version__
from latent_ae.config import Section, flatten
from latent_ae.config.section import Size, sides, size_of
from latent_ae.data import SOURCES, AnySource, DigitsConfig
from latent_ae.data.transforms import BY_CROP, size_text
from latent_ae.io.latent_file.latents import Dtype
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.images import Images
from latent_ae.latent_dataset.manifest import (
    ComputePart,
    EncoderPart,
    ImagesPart,
    Manifest,
    ModelPart,
    PreprocessingPart,
    as_utf8,
    names_digest,
)

Count = Annotated[int, Field(ge=1)]
Compute = Literal["exact", "fp32", "bf16", "fp16"]

_BATCH = 8


class EncodeConfig(Section):
    """Settings of `encode_dataset.py`."""

    model: str | None = None
    """a model directory, a single file or a hub id; required"""
    out: str | None = None
    """folder of the latents; required. Existing shards of the same settings are kept"""
    part: Literal["train", "heldout", "all"] = "train"
    """part of the data; all: the training part, then the held-out part"""
    resolution: Annotated[int | Size | None, sides("resolution")] = None
    """side of a square, or height and width, in pixels, to which images are brought as data.fit says: by default the
    largest centred part is resized; null: whole images at their own size"""
    flips: bool = False
    """also encode mirror images, as further rows: latents of a mirror image are not mirrored latents"""
    logvar: bool = True
    """keep the posterior's log-variance beside its mean, so that training can sample; no effect without a posterior"""
    dtype: Dtype = "float16"
    """storage type of the latents; no effect on the codes of a VQModel, which are integers"""
    precision: Compute = "exact"
    """arithmetic of the encoder: exact is float32 with one image at a time; the others use batches"""
    batch_size: Count | None = None
    """images per batch with precision fp32, bf16 or fp16; default 8"""
    tile: Annotated[int, Field(ge=1)] | Literal["off"] = "off"
    """encode images with a longer side in overlapping tiles of this many pixels: an approximation, for images that do
    not fit into memory; off: never"""
    shard_images: Count = 1024
    """images per shard; a shard is made by one process, and a kill loses only the shards being made"""
    label_column: str | None = None
    """data.source hub: column with the labels, integers or class names"""
    caption_column: str | None = None
    """data.source hub: column with the captions"""
    data: AnySource = DigitsConfig()

    @property
    def images_at_once(self) -> int:
        """Images per batch: 1 with precision exact."""
        return 1 if self.precision == "exact" else self.batch_size or _BATCH

    @property
    def tile_pixels(self) -> int | None:
        """Side of a tile; None where images go through whole."""
        return None if self.tile == "off" else self.tile

    def reading(self, pixels: PixelFormat) -> PixelFormat:
        """The pixel format of a model, with the channels of the files that the settings choose. Raises UserError."""
        return pixels if self.data.bands is None else pixels.replace(bands=self.data.bands)

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.data.percentiles is not None:
            raise ValueError(
                "data.percentiles has no effect: values are read in the range that the model was trained with: omit it"
            )
        if self.precision == "exact" and self.batch_size is not None:
            raise ValueError(
                "batch_size has no effect with precision exact, which encodes one image at a time: omit it, or give "
                "precision fp32, bf16 or fp16"
            )
        if self.resolution is None and self.data.fitting != BY_CROP:
            raise ValueError("data.fit and data.filter have no effect without resolution: omit them or give it")
        if self.resolution is not None and self.tile != "off" and max(size_of(self.resolution)) <= self.tile:
            raise ValueError(
                f"tile {self.tile} has no effect on images of resolution {size_text(size_of(self.resolution))}, which "
                "are not larger: omit it"
            )
        columns = [name for name in ("label_column", "caption_column") if getattr(self, name)]
        if columns and not self.data.has_columns:
            having = " or ".join(name for name, source in SOURCES.items() if source.has_columns)
            raise ValueError(
                f"{', '.join(columns)} has an effect only with data.source {having}, got {self.data.source}"
            )
        if not self.data.by_number:
            raise ValueError(
                f"data.source {self.data.source} cannot be turned into latents, as shards need images by index: give "
                "data.source hub with the same data.path, which unpacks the data set once"
            )
        return self


def describe_work(config: EncodeConfig, images: Images, encoder: Encoder) -> Manifest:
    """The manifest of these settings.

    Raises LatentDatasetError for a name that is not UTF-8, and DataError where no image is one that the model encodes.
    """
    codec = encoder.codec
    for name in images.label_names or ():
        as_utf8(name)
    preprocessing = PreprocessingPart(
        channels=codec.channels,
        resolution=config.resolution,
        background=config.data.background,
        flips=config.flips,
        fit=config.data.fit,
        filter=config.data.filter,
        pixel_format=None if codec.pixel_format.is_default else config.reading(codec.pixel_format),
    )
    images.require_fit(preprocessing, codec.name)
    return Manifest(
        kind=encoder.kind,
        dtype=str(encoder.dtype).removeprefix("torch."),
        encoder=EncoderPart(
            identity=codec.identity,
            factor=codec.factor,
            channels=codec.latent_channels,
            codebook_size=codec.codebook_size,
        ),
        preprocessing=preprocessing,
        compute=ComputePart(precision=config.precision, batch_size=config.images_at_once, tile=config.tile_pixels),
        images=ImagesPart(
            count=len(images),
            names_sha256=names_digest(images.name(index) for index in range(len(images))),
            part=config.part,
            shard_images=config.shard_images,
            label_column=config.label_column,
            caption_column=config.caption_column,
        ),
        model=ModelPart(name=codec.name, scaling_factor=codec.scaling_factor, shift_factor=codec.shift_factor),
        label_names=images.label_names,
        data=config.data,
        versions={"latent_ae": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
    )


def command(folder: Path, manifest: Manifest) -> str:
    """The command that made a folder, in one line; it also repairs what is missing or damaged."""
    said = {**manifest.images.model_dump(), **manifest.preprocessing.model_dump(), **manifest.compute.model_dump()}
    config = EncodeConfig.model_validate(
        {
            **{name: value for name, value in said.items() if name in EncodeConfig.model_fields},
            "model": manifest.model.name,
            "out": str(folder),
            "logvar": manifest.kind != "mean",
            "dtype": EncodeConfig().dtype if manifest.kind == "vq_indices" else manifest.dtype,
            "batch_size": None if manifest.compute.precision == "exact" else manifest.compute.batch_size,
            "tile": manifest.compute.tile or "off",
            "data": manifest.data,
        }
    )
    given = flatten(config.model_dump(mode="json", exclude={"data"}, exclude_defaults=True))
    data = config.data.model_dump(mode="json", exclude_defaults=True)
    given |= flatten({"source": config.data.source, **data}, "data.")
    words = ["python", "train/encode_dataset.py"]
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(each).lower() if isinstance(each, bool) else str(each) for each in values)]
    return shlex.join(words)
