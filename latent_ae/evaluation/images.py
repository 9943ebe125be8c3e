"""Which images are measured: a part of a data source or all of it, by default none that the model was trained on.

options, models' runs -> measure_config -> MeasureConfig, part -> open_part -> ImageSource -> batches
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from latent_ae.config import EvaluationConfig, Section
from latent_ae.config.command_line import override
from latent_ae.config.implied import source_of
from latent_ae.config.section import validate
from latent_ae.data import SOURCES, AnySource, DataConfig, DataError, DigitsConfig, evaluation_batches
from latent_ae.data.settings import FilesConfig
from latent_ae.data.source import ImageSource, LeftOut, SourceParts
from latent_ae.data.sources.splits import unused_split
from latent_ae.data.values import read_as
from latent_ae.errors import UserError
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.models import AnyAutoencoder
from latent_ae.models.loading import load_pixel_format
from latent_ae.models.run_folders import run_settings

Part = Literal["heldout", "train", "test", "all"]
_NAMES: dict[Part, str] = {
    "heldout": "held-out part",
    "train": "training part",
    "test": "test split",
    "all": "all images",
}


_SPLITTING = ("heldout_share", "heldout_path", "heldout_split", "train_split", "split_column")
"""settings of `data` that say which images are held out"""


class MeasureConfig(Section):
    """Which images are measured, and how."""

    data: AnySource = DigitsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class JoinedSource:
    """The images of several sources, one source after the other."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = sources
        self._ends = list(accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def sample_id(self, index: int) -> str:
        """That of the image in its source."""
        source, place = self._place(index)
        return source.sample_id(place)

    def load(self, index: int) -> Image.Image | Array:
        """The image as its source gives it. Raises BrokenImage."""
        source, place = self._place(index)
        return source.load(place)

    def _place(self, index: int) -> tuple[ImageSource, int]:
        number = bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)


def measure_config(options: dict[str, object], model_names: Sequence[str]) -> tuple[MeasureConfig, Part]:
    """The settings that the options give, and the part of the images to measure where none is asked for.

    Without --data.source and --data.path the images are those that the models were trained on, by the settings of their
    runs. Of images that a model was trained on, the part is "heldout", held out as in that run; of others it is "all".
    Raises UserError.
    """
    source, path = options.get("data.source"), options.get("data.path")
    runs = {name: data for name in model_names if (data := _trained_on(name)) is not None}
    if source is None and path is None:
        trained: DataConfig | None = _common(runs, model_names)
    else:
        trained = next((data for data in runs.values() if _may_be_images_of(data, source, path)), None)
    kept: dict[str, object] = {} if source is not None else {"source": source_of(path)}
    if trained is not None and source in (None, trained.source):
        kept = trained.choice()
    config = override(MeasureConfig, {"data": kept}, options)
    if cut := config.data.given_for_training():
        raise UserError(f"{cut} only crops training images and has no effect here: leave it out")
    if "data.percentiles" in options:
        raise UserError("--data.percentiles has no effect: values are read in the model's own range: leave it out")
    if (idle := sorted(options.keys() & {"data.fit", "data.filter"})) and config.evaluation.size is None:
        raise UserError(f"--{idle[0]} brings images to --evaluation.size, which is not given: give both or neither")
    if trained is None:
        return config, "all"
    for name in _SPLITTING:
        ours, theirs = (getattr(data, name, None) for data in (config.data, trained))
        if f"data.{name}" in options and ours != theirs:
            raise UserError(
                f"data.{name} {ours} is not that of the model's run, {theirs}, so that images it was trained on would "
                "count as held out: leave it out"
            )
    return config, "heldout"


def _trained_on(model_name: str) -> DataConfig | None:
    """The images that a model was trained on, by the settings of its run; None if it lies in no run's folder."""
    settings = run_settings(Path(model_name))
    return None if settings is None else validate(MeasureConfig, {"data": settings.get("data", {})}).data


def _may_be_images_of(data: DataConfig, source: object, path: object) -> bool:
    """Whether a source and a path mean the images of `data`: by the path or its last name, as folders get moved."""
    own = getattr(data, "path", None)
    if path is None or own is None:
        return source == data.source
    one, other = (Path(str(each)).expanduser().resolve() for each in (path, own))
    return one == other or one.name == other.name


def _common(runs: dict[str, DataConfig], model_names: Sequence[str]) -> DataConfig:
    """The images that all models were trained on. Raises UserError."""
    which = f"give --data.path DIR, or --data.source, one of {', '.join(SOURCES)}"
    if unknown := [name for name in model_names if name not in runs]:
        raise UserError(f"no run's settings say which images {unknown[0]} was trained on: {which}")
    first, *others = runs.values()
    if different := [data for data in others if not _may_be_images_of(first, data.source, getattr(data, "path", None))]:
        raise UserError(
            f"the models were trained on different images, {first.data_name} and {different[0].data_name}: {which}"
        )
    return first


def open_part(data: DataConfig, part: Part) -> tuple[ImageSource, LeftOut]:
    """The images of a part, and what is in none, which is printed. Raises DataError."""
    if part == "test":
        try:
            return _split(data, part), LeftOut()
        except DataError as error:
            raise DataError(f"--part test: {error}") from error
    if part != "all":
        parts = open_parts(data)
        return (parts.heldout if part == "heldout" else parts.train), parts.left_out
    whole = data.model_copy(update={"heldout_share": 0}) if isinstance(data, FilesConfig) else data
    parts = open_parts(whole, every_split=True)
    every = [parts.train, parts.heldout, *(_split(whole, name) for name in parts.unused)]
    return JoinedSource(every), parts.left_out


def open_parts(data: DataConfig, *, every_split: bool = False) -> SourceParts:
    """The parts of a data source; prints how they were made, and which files and images are in none.

    With `every_split`, those in a further split are not left out. Raises DataError.
    """
    parts = data.open()
    used = tuple(unused_split(name) for name in parts.unused) if every_split else ()
    left_out = LeftOut({reason: count for reason, count in parts.left_out.items() if not reason.endswith(used)})
    parts = replace(parts, left_out=left_out)
    for line in parts.remarks:
        tqdm.write(line)
    return parts


def _split(data: DataConfig, name: str) -> ImageSource:
    """The images of a split, by its name. Raises DataError."""
    if not isinstance(data, FilesConfig):
        raise DataError(f"data.source {data.source} has no split {name}")
    alone = {"train_split": name, "heldout_split": None, "heldout_path": None, "heldout_share": 0}
    return data.model_copy(update=alone).open().train


def described(data: DataConfig, part: Part) -> str:
    """The images, for a protocol."""
    return f"{data.source}, {_NAMES[part]}"


def asked_for(source: ImageSource, limit: int | None) -> int:
    """Number of images of a source that are measured with evaluation.max_images `limit`."""
    return len(source) if limit is None else min(limit, len(source))


def pixel_format_of(model_name: str, model: AnyAutoencoder, config: MeasureConfig) -> PixelFormat:
    """What the pixels of a model mean, with the channels that the settings choose. Raises UserError."""
    pixels = load_pixel_format(model_name, model)
    if config.evaluation.rgb is not None:
        pixels = pixels.replace(rgb=config.evaluation.rgb)
    if config.data.bands is not None:
        pixels = pixels.replace(bands=config.data.bands)
    return pixels


def reading_as(config: MeasureConfig, formats: Mapping[str, PixelFormat]) -> MeasureConfig:
    """The settings, reading images as all of the models do. Raises UserError where they differ in it."""
    (name, pixels), *others = formats.items()
    for other, form in others:
        if (form.numbers, form.bands) != (pixels.numbers, pixels.bands):
            raise UserError(
                f"{name} reads {pixels.describe()} and {other} {form.describe()}: measure models apart that read "
                "different files"
            )
    return config.model_copy(update={"data": read_as(pixels, config.data, name)})


@contextmanager
def batches(
    source: ImageSource,
    pixels: PixelFormat,
    data: DataConfig,
    evaluation: EvaluationConfig,
    *,
    limit: int | None,
    what: str = "",
    bad: list[str] | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[Iterator[tuple[Tensor, Sequence[str]]]]:
    """Pixels, of the format `pixels`, and ids of `limit` images of a source (None: all), spread evenly over it.

    Prints those that cannot be used, and adds their ids to `bad`. With `shard` (rank, processes) these are one
    process's share. The first one shows a progress bar called `what`; "" shows none.
    """
    rank, processes = shard

    def leave_out(sample_id: str, reason: str) -> None:
        tqdm.write(f"left out: {sample_id}: {reason}")
        if bad is not None:
            bad.append(sample_id)

    found = evaluation_batches(
        source,
        pixels,
        size=evaluation.size,
        background=data.background,
        fitting=data.fitting,
        batch_size=evaluation.batch_size,
        pixels_at_once=evaluation.pixels_at_once,
        limit=limit,
        on_bad=leave_out,
        shard=shard,
        workers=data.workers,
    )
    total, hidden = asked_for(source, limit), not what or rank > 0
    with tqdm(total=total, desc=what, unit="image", leave=False, disable=hidden) as bar:

        def shown() -> Iterator[tuple[Tensor, Sequence[str]]]:
            for batch in found:
                yield batch.pixels, batch.sample_ids
                bar.update(len(batch.pixels) * processes)

        yield shown()
