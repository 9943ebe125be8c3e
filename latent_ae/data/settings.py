"""The `data` section that every source of images has; a source adds its own settings in its file."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import CountOrNone, Positive, Section, Share, Size, sides, size_of
from latent_ae.data.reading import Reading
from latent_ae.data.source import SourceParts
from latent_ae.data.transforms import Filter, Fit, Fitting
from latent_ae.io.pixel_format import MAX_CHANNELS, Range

Byte = Annotated[int, Field(ge=0, le=255)]
Percent = Annotated[float, Field(ge=0, le=100)]


class TrainingCropConfig(Section):
    """How training crops are made; no effect on evaluation, encoding and export."""

    resolution: Annotated[int | Size, sides("data.resolution")] = 32
    """side of the square training crop in pixels, or height and width; multiples of the model's factor"""
    crop: Literal["random", "center"] = "center"
    """position of the training crop"""
    scale: tuple[Positive, Positive] | None = None
    """random crop: take a part of resolution times U(low, high) pixels and resize it to the resolution. Without it the
    largest centred part of that shape is resized (center), or a part is cropped at its own size (random)"""
    flip: bool = False
    """mirror half of the training crops left to right"""
    color_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """g: multiply each colour channel of a training crop by U(1 - g, 1 + g), to vary the colours of a small data set"""
    max_bad_share: Share = 0.01
    """the run ends once more than this share of the training images is unusable; unless it is 0, 3 unusable images are
    always allowed, or a tenth of a data set of fewer than 30"""
    keep_mib: Annotated[int, Field(ge=0)] = 512
    """MiB of memory for decoded training images, of all workers of a training process together: where all images fit,
    none is decoded twice; otherwise none is kept, as with 0"""
    buckets: bool = False
    """keep the images' aspect ratios: each global batch has one of several sizes of about the resolution's area"""
    bucket_multiple: Annotated[int, Field(ge=8)] = 64
    """buckets: sides are multiples of this many pixels"""
    bucket_max_aspect: Annotated[float, Field(gt=1)] = 2.0
    """buckets: longest side over shortest"""

    @property
    def crop_size(self) -> Size:
        """Height and width of a training crop."""
        return size_of(self.resolution)

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.scale is not None and self.crop != "random":
            raise ValueError(
                "data.scale has an effect only with data.crop random, got data.crop center: give data.scale null"
            )
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


class FittingConfig(Section):
    """How an image comes to a size: data.resolution, and evaluation.size."""

    fit: Fit = "crop"
    """crop: the largest part of that aspect ratio, resized; pad: all of it, scaled to fit inside, and padding that no
    loss and no measure compares; resize: all of it, resized to that size whatever its aspect ratio"""
    filter: Filter = "auto"
    """what resizes: auto is lanczos where an image is reduced and bicubic where it is enlarged, at most 4 times;
    nearest is for pixel art: any enlargement, with pad by a whole number"""

    @property
    def fitting(self) -> Fitting:
        """The two of them."""
        return Fitting(self.fit, self.filter)


class ValuesConfig(Section):
    """What the values of the images are. Without a range images are pictures: 8-bit sRGB levels, by their profiles."""

    value_range: tuple[float, ...] | None = None
    """read the files' own numbers, of any type: the values low, high that a model sees as black and white, for all
    channels, or low, high of the first channel, low, high of the second, ...; values outside are clipped"""
    percentiles: tuple[Percent, Percent] | None = None
    """the same, with the range measured over the training images: the percentiles (low, high) of their values"""
    per_channel: bool = False
    """percentiles: measure a range for each channel"""
    window: tuple[float, Positive] | None = None
    """the same, with the range given as (centre, width)"""
    gamma: Positive = 1.0
    """numbers: raise a value's share of the range to 1 / gamma; 2.2 for linear light"""
    bands: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """numbers: the channels of the files to take, in this order, counted from 1"""
    unit: str = ""
    """numbers: the unit of their values, for reports: HU, K, reflectance"""
    alpha: Literal["straight", "premultiplied"] | None = None
    """pictures of 2 or 4 channels: whether the colours are multiplied by alpha, the last channel"""

    @property
    def reads_numbers(self) -> bool:
        """Whether the images are read as numbers, and not as pictures."""
        return any(each is not None for each in (self.value_range, self.percentiles, self.window))

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        given = [name for name in ("value_range", "percentiles", "window") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join('data.' + name for name in given)} say the same: give one of them")
        if self.percentiles is not None and not self.percentiles[0] < self.percentiles[1]:
            raise ValueError(
                f"data.percentiles needs low < high, got {self.percentiles[0]:g} and {self.percentiles[1]:g}"
            )
        if self.value_range is not None and len(self.value_range) not in range(2, 2 * MAX_CHANNELS + 1, 2):
            raise ValueError(f"data.value_range takes pairs low, high, got {len(self.value_range)} numbers")
        for low, high in self.given_ranges() or ():
            if not low < high:
                raise ValueError(f"data.value_range needs low < high, got {low:g} and {high:g}")
        fields = type(self).model_fields
        idle = [name for name in ("gamma", "bands", "unit") if getattr(self, name) != fields[name].default]
        if idle and not given:
            raise ValueError(
                f"{' and '.join('data.' + name for name in idle)} take effect only where images are read as numbers: "
                "give data.value_range, data.percentiles or data.window"
            )
        if self.per_channel and self.percentiles is None:
            raise ValueError("data.per_channel has an effect only with data.percentiles")
        if self.alpha is not None and given:
            raise ValueError(f"data.alpha is of pictures, and data.{given[0]} reads numbers: leave one of them out")
        return self

    def given_ranges(self) -> tuple[Range, ...] | None:
        """The ranges that the settings say, one or one a channel; None where they are measured, or for pictures."""
        if self.window is not None:
            centre, width = self.window
            return ((centre - width / 2, centre + width / 2),)
        if self.value_range is None:
            return None
        return tuple(zip(self.value_range[::2], self.value_range[1::2], strict=True))


class DataConfig(ValuesConfig, FittingConfig, TrainingCropConfig):
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
    has_numbers: ClassVar[bool] = True
    """whether its images can be read as numbers"""

    @property
    def kept_bytes(self) -> int:
        """Memory of each process that loads images, for those that it keeps."""
        return self.keep_mib * 2**20 // max(1, self.workers)

    @property
    def data_name(self) -> str:
        """Name of the images, without the folders of this machine."""
        return self.source

    @model_validator(mode="after")
    def _cut_or_shown_whole(self) -> Self:
        cutting = {"data.crop center": self.crop != "center", "data.buckets false": self.buckets}
        if self.fit != "crop" and (instead := [setting for setting, cuts in cutting.items() if cuts]):
            raise ValueError(
                f"data.fit {self.fit} shows all of an image, and {instead[0].split()[0]} cuts it: give {instead[0]}"
            )
        if self.color_gain and self.reads_numbers:
            raise ValueError(
                "data.color_gain multiplies levels of pictures, and the images are read as numbers: give "
                "data.color_gain 0"
            )
        return self

    @model_validator(mode="after")
    def _has_what_is_read(self) -> Self:
        if self.reads_numbers and not self.has_numbers:
            raise ValueError(f"data.source {self.source} holds pictures, which are not read as numbers: take folder")
        return self

    def open(self) -> SourceParts:
        """Open the training part and the held-out part. Raises DataError."""
        raise NotImplementedError  # abstract: every source has its own

    def choice(self) -> dict[str, object]:
        """The settings that select the images and say how they are read, as JSON; the latter as far as they were given,
        as records made before there was such a choice have none.
        """
        chosen = self.model_dump(mode="json", exclude={*self.training_only, "workers"})
        fields = {**ValuesConfig.model_fields, **FittingConfig.model_fields}
        reading = {name: field.default for name, field in fields.items()}
        return {name: value for name, value in chosen.items() if name not in reading or value != reading[name]}

    def given_for_training(self) -> str:
        """The given settings that have no effect outside of training, as options; "" if there are none."""
        given = self.model_fields_set & self.training_only
        return ", ".join(f"--data.{name}" for name in type(self).model_fields if name in given)


class FilesConfig(DataConfig):
    """Settings of all sources that read files."""

    path: str
    """file or folder of the images"""
    heldout_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """share of the images held out, by a hash of their id, where no split is; 0 holds out none, to measure all"""
    heldout_path: str | None = None
    """images to hold out that lie elsewhere; then no split and no share of data.path is held out"""
    train_split: str | None = None
    """split to train on, "train" by default"""
    heldout_split: str | None = None
    """split to hold out; default: "validation" or "test", or else a share of the training split"""
    split_column: str | None = None
    """column of a table that says which split a row is in; folder takes "split" where there is one"""
    pages: Literal["first", "all"] | CountOrNone = "first"
    """numbers: the pages, slices or frames of a file that are images; a number counts from 0"""
    axis: Annotated[int, Field(ge=0, le=2)] | None = None
    """numbers: the axis of a volume along which its pages are counted; the third of NIfTI by default"""

    @property
    def reading(self) -> Reading:
        """How its files become images."""
        return Reading(self.reads_numbers, self.pages, self.axis)

    @model_validator(mode="after")
    def _pages_of_numbers(self) -> Self:
        if not self.reads_numbers and (
            idle := [name for name in ("pages", "axis") if name in self.model_dump(exclude_defaults=True)]
        ):
            raise ValueError(
                f"data.{idle[0]} takes effect only where images are read as numbers: give data.value_range, "
                "data.percentiles or data.window"
            )
        return self

    @model_validator(mode="after")
    def _one_choice_of_heldout(self) -> Self:
        given = [name for name in ("heldout_path", "heldout_split") if getattr(self, name) is not None]
        given += ["heldout_share"] if self.heldout_share != type(self).model_fields["heldout_share"].default else []
        if len(given) > 1:
            raise ValueError(f"data.{given[1]} has no effect with data.{given[0]}: leave out one of them")
        return self

    @property
    def data_name(self) -> str:
        """With the name of the file or folder."""
        return f"{self.source} {Path(self.path).name}"

    def choice(self) -> dict[str, object]:
        """Without settings that were not given and that earlier versions do not know."""
        later = {"heldout_path", "train_split", "heldout_split", "split_column", "path_column", "pages", "axis"}
        later |= {"grid", "tile"}
        defaults = {name: field.default for name, field in type(self).model_fields.items() if name in later}
        return {name: value for name, value in super().choice().items() if value != defaults.get(name, ...)}
