"""The `data` section that every source of images has; a source adds its own settings in its file."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import CountOrNone, Positive, Section, Share
from latent_ae.data.source import SourceParts

Byte = Annotated[int, Field(ge=0, le=255)]


class TrainingCropConfig(Section):
    """How training crops are made; no effect on evaluation, encoding and export."""

    resolution: Annotated[int, Field(ge=8)] = 32
    """side of the square training crop in pixels; a multiple of the model's factor"""
    crop: Literal["random", "center"] = "center"
    """position of the training crop"""
    scale: tuple[Positive, Positive] | None = None
    """random crop: take a square of resolution times U(low, high) pixels and resize it to the resolution. Without it
    an image is resized so that its shorter side is the resolution (center), or is cropped at its own size (random)"""
    flip: bool = False
    """mirror half of the training crops left to right"""
    color_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """g: multiply each colour channel of a training crop by U(1 - g, 1 + g), to vary the colours of a small data set"""
    max_bad_share: Share = 0.01
    """the run ends once more than this share of the training images is unusable; unless it is 0, 3 unusable images are
    always allowed, or a tenth of a data set of fewer than 30"""
    buckets: bool = False
    """keep the images' aspect ratios: each global batch has one of several sizes of about resolution^2 pixels"""
    bucket_multiple: Annotated[int, Field(ge=8)] = 64
    """buckets: sides are multiples of this many pixels"""
    bucket_max_aspect: Annotated[float, Field(gt=1)] = 2.0
    """buckets: longest side over shortest"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.scale is not None and self.crop != "random":
            raise ValueError("data.scale has an effect only with data.crop random, got data.crop center")
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ValueError(f"data.scale must be a range (low, high), got {self.scale}")
        if self.buckets and self.scale is not None:
            raise ValueError("data.scale has no effect with data.buckets, which cut by themselves: leave it out")
        changed = self.model_dump(exclude_defaults=True)
        if not self.buckets and (
            idle := [name for name in ("bucket_multiple", "bucket_max_aspect") if name in changed]
        ):
            raise ValueError(f"{', '.join(f'data.{name}' for name in idle)} has an effect only with data.buckets true")
        return self


class DataConfig(TrainingCropConfig):
    """Where images come from and how they are cut to training size. Base of the entries of SOURCES."""

    source: str
    """name in the table"""
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    """colour (R, G, B) behind transparent pixels"""
    workers: CountOrNone = 0
    """processes that load images, per training process; 0 loads in the training process"""

    training_only: ClassVar[frozenset[str]] = frozenset(TrainingCropConfig.model_fields)
    """settings that have no effect outside of training"""
    by_number: ClassVar[bool] = True
    """whether images can be loaded by index, and not only in the order of a stream"""
    has_columns: ClassVar[bool] = False
    """whether its images are `ColumnSource`s"""

    @property
    def data_name(self) -> str:
        """Name of the images, without the folders of this machine."""
        return self.source

    def open(self) -> SourceParts:
        """Open the training part and the held-out part. Raises DataError."""
        raise NotImplementedError  # abstract: every source has its own

    def choice(self) -> dict[str, object]:
        """The settings that select the images, as JSON."""
        return self.model_dump(mode="json", exclude={*self.training_only, "workers"})

    def given_for_training(self) -> str:
        """The given settings that have no effect outside of training, as options; "" if there are none."""
        given = self.model_fields_set & self.training_only
        return ", ".join(f"--data.{name}" for name in type(self).model_fields if name in given)


class FilesConfig(DataConfig):
    """Settings of all sources that read files."""

    path: str
    """file or folder of the images"""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """share of the images held out, by a hash of their id"""

    @property
    def data_name(self) -> str:
        """With the name of the file or folder."""
        return f"{self.source} {Path(self.path).name}"
