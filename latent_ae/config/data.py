"""Where images come from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, CountOrNone, Positive, Section, Share


class DataConfig(Section):
    """Where images come from and how they are cut to training size."""

    source: str = "digits"
    """name of a source in latent_ae.data.SOURCES"""
    path: str | None = None
    """folder: a tree of images; hub: a data set's name (or NAME:CONFIGURATION) or a local parquet/arrow/imagefolder
    path; stream: the same, and webdataset tars, read in order without unpacking them"""
    image_column: str | None = None
    """hub, stream: the column that holds the images; found by its type if there is just one"""
    train_split: str | None = None
    """hub, stream: split to train on; the data set's "train" unless named"""
    heldout_split: str | None = None
    """hub, stream: split to hold out; the data set's "validation" or "test", or else a share of the training split"""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """folder, and hub or stream without a held-out split: share of the images held out, by a hash of their id"""
    resolution: Annotated[int, Field(ge=8)] = 32
    """side of the square training crop in pixels; a multiple of the model's factor"""
    crop: Literal["random", "center"] = "center"
    """where the training crop is taken"""
    scale: tuple[Positive, Positive] | None = None
    """random crop: take a square of resolution times U(low, high) pixels and resize it to the resolution. Without it
    an image is resized so that its shorter side is the resolution (center), or is cropped at its own size (random)"""
    flip: bool = False
    """mirror half of the training crops left to right"""
    color_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """brightness of each colour channel of a training crop is multiplied by U(1 - g, 1 + g): more colours than a small
    data set has"""
    background: tuple[
        Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
    ] = (255, 255, 255)
    """colour (R, G, B) behind transparent pixels"""
    max_bad_share: Share = 0.01
    """the run ends once more than this share of the training images could not be used; unless it is 0, 3 images always
    may be bad, or a tenth of a data set of fewer than 30"""
    streams: Count = 8
    """stream: parts of the data that are read side by side; processes x train.accumulation must divide their number,
    and it train.batch_size"""
    shuffle_block: Count = 256
    """stream: images a stream holds in memory, undecoded, and shuffles"""
    collected_images: Count = 1000
    """stream: images of each part that are held in memory, undecoded, to measure on"""
    buckets: bool = False
    """keep the images' aspect ratios: each global batch has one of several sizes of about resolution^2 pixels"""
    bucket_multiple: Annotated[int, Field(ge=8)] = 64
    """buckets: sides are multiples of this many pixels"""
    bucket_max_aspect: Annotated[float, Field(gt=1)] = 2.0
    """buckets: longest side over shortest"""
    workers: CountOrNone = 0
    """processes that load images, per training process; 0 loads in the training process"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.scale is not None and self.crop != "random":
            raise ValueError("data.scale has an effect only with data.crop random, got data.crop center")
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ValueError(f"data.scale must be a range (low, high), got {self.scale}")
        if self.path is None and self.source in ("folder", "hub", "stream"):
            raise ValueError(f"data.source {self.source} needs data.path")
        if self.path is not None and self.source in ("digits", "photos"):
            raise ValueError(f"data.path has no effect with data.source {self.source}: leave it out")
        hub_only = [name for name in ("image_column", "train_split", "heldout_split") if getattr(self, name)]
        if hub_only and self.source not in ("hub", "stream"):
            names = ", ".join(f"data.{name}" for name in hub_only)
            raise ValueError(f"{names} has an effect only with data.source hub or stream, got {self.source}")
        self._given_only_with(
            ("streams", "shuffle_block", "collected_images"), "data.source stream", self.source == "stream"
        )
        self._given_only_with(
            ("heldout_share",),
            "data.source folder, or hub or stream without data.heldout_split",
            self.source not in ("digits", "photos") and self.heldout_split is None,
        )
        self._given_only_with(("bucket_multiple", "bucket_max_aspect"), "data.buckets true", self.buckets)
        if self.buckets and (self.source == "stream" or self.scale is not None):
            raise ValueError(
                "data.buckets needs images by index, and cuts them by itself: leave out stream and data.scale"
            )
        return self

    def _given_only_with(self, names: tuple[str, ...], what: str, there: bool) -> None:
        fields = DataConfig.model_fields
        if not there and (idle := [name for name in names if getattr(self, name) != fields[name].default]):
            raise ValueError(f"{', '.join(f'data.{name}' for name in idle)} has an effect only with {what}")
