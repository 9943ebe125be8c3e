"""The source `stream`: data sets that are read in order from where they lie, without unpacking them to a disk."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from latent_ae.config.section import Count
from latent_ae.data.settings import DataConfig
from latent_ae.data.source import DataError, LeftOut
from latent_ae.data.sources.datasets_files import (
    IMAGES,
    TABLE_KINDS,
    TARS,
    DatasetConfig,
    Opened,
    open_builder,
    refuse_shared,
    unreadable,
)
from latent_ae.data.sources.datasets_library import class_names, image_column
from latent_ae.data.sources.files import plain, suffix_of
from latent_ae.data.sources.shards import CollectedImages, Shards, StreamParts
from latent_ae.data.sources.splits import HELDOUT_PREFIX, choose, only_split, rows_by_split, unused_split
from latent_ae.data.sources.tables import is_metadata
from latent_ae.data.sources.tars import KEY, tar_dataset


class StreamConfig(DatasetConfig):
    """stream: a data set that is read in order."""

    source: Literal["stream"] = "stream"
    streams: Count = 8
    """parts of the data that are read side by side; processes x train.accumulation must divide their number, and it
    train.batch_size"""
    shuffle_block: Count = 256
    """images a stream holds in memory, undecoded, and shuffles"""
    collected_images: Count = 1000
    """images of each part that are held in memory, undecoded, to measure on"""

    training_only = DataConfig.training_only | {"streams", "shuffle_block"}
    by_number = False

    @model_validator(mode="after")
    def _images_pass_once(self) -> Self:
        if self.keep_mib != type(self).model_fields["keep_mib"].default:
            raise ValueError("data.keep_mib has no effect with data.source stream, which keeps no images: leave it out")
        if self.buckets:
            raise ValueError(
                "data.buckets needs images by number, which data.source stream does not give: leave it out"
            )
        return self

    def open(self) -> StreamParts:
        """Open `data.path`: webdataset tars, parquet or arrow files, a folder of them, or a hub name.

        Splits, held-out images and configurations are those of `hub`. No more than the first rows are read here, the
        metadata of a folder of images, and `split_column`. Raises DataError.
        """
        what = f"data.path {self.path}"
        splits, left_out = self._splits(self.path, "data.path")
        train, heldout, unused = choose(splits, self, what)
        if self.heldout_path is not None:
            apart, more = self._splits(self.heldout_path, "data.heldout_path", prefix=HELDOUT_PREFIX)
            heldout, left_out = only_split(apart, f"data.heldout_path {self.heldout_path}"), left_out + more
            refuse_shared(train.files, heldout.files, self.heldout_path)
        elif heldout is None:
            share, whole = self.heldout_share, train.shards
            train, heldout = (replace(train, shards=whole.part(*part)) for part in ((share, 1.0), (0.0, share)))
        stream = train.shards
        if not any(True for shard in range(len(stream)) for _ in stream.images(shard)):
            raise DataError(
                f"{stream.what} holds no images to train on: its {len(stream)} shards are empty or all held out"
            )
        return StreamParts(
            CollectedImages(stream, self.collected_images),
            CollectedImages(heldout.shards, self.collected_images),
            left_out=sum((split.unused for split in unused.values()), left_out)
            + self.reading.further_pages(Path(file) for file in train.files | heldout.files),
            unused=tuple(unused),
            stream=stream,
            streams=self.streams,
            shuffle_block=self.shuffle_block,
        )

    def _splits(self, path: str, setting: str, prefix: str = "") -> "tuple[dict[str, _Split], LeftOut]":
        """The splits of a data set by name, and its files that are in none. Raises DataError."""
        what, local = f"{setting} {path}", Path(plain(path))
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            raise DataError(f"{what} was written by save_to_disk, which needs no stream: take data.source hub")
        opened = open_builder(path, setting)
        try:
            if opened.kind == TARS:
                found = {
                    name: tar_dataset(files, self.image_column, self.reading.suffixes)
                    for name, files in opened.data_files.items()
                }
            else:
                found = {str(name): dataset for name, dataset in opened.builder.as_streaming_dataset().items()}
            counts = {name: _count(opened, name, dataset) for name, dataset in found.items()}
        except DataError:
            raise
        except Exception as error:  # datasets' own are of many kinds
            raise unreadable(path, error) from error
        # Other formats (folders of images, say) do not make one shard of each file.
        files = opened.data_files if opened.kind in TABLE_KINDS.values() else {}
        splits: dict[str, _Split] = {}
        for name, whole in found.items():
            wanted = None if opened.kind == TARS else self.image_column
            dataset, column = image_column(whole, wanted, what, keep=[KEY, self.split_column])
            named = files.get(name, []) if len(files.get(name, [])) == dataset.num_shards else []
            root, where = opened.root, f"{what}, split {name}"
            shards = Shards(
                dataset, column, named, root=root, split=name, what=where, prefix=prefix, reading=self.reading
            )
            splits[name] = _Split(name, shards, counts[name], opened.real_files.get(name, frozenset()))
        if self.split_column is not None and setting == "data.path":
            splits = _divided(only_split(splits, what), found[next(iter(found))], self.split_column, what)
        return splits, opened.left_out(counts)


@dataclass(frozen=True)
class _Split:
    """One split of a stream."""

    name: str
    shards: Shards
    images: int | None
    """None where only reading them all would tell"""
    files: frozenset[str]

    @property
    def unused(self) -> LeftOut:
        """What it adds to what is left out where it is in no part."""
        if self.images is None:
            return LeftOut({f"shards {unused_split(self.name)}": len(self.shards)})
        return LeftOut({unused_split(self.name): self.images})


def _count(opened: Opened, split: str, dataset: Any) -> int | None:
    """How many images a split of a folder of image files has; None for another format, or with archives."""
    files = opened.data_files.get(split, [])
    if opened.kind != IMAGES or any(suffix_of(file) == ".zip" for file in files):
        return None
    if not any(map(is_metadata, files)):
        return len(files)
    import datasets  # noqa: PLC0415

    undecoded = dataset.cast_column("image", datasets.Image(decode=False))
    return sum(1 for _ in undecoded)  # the metadata are read, not the images


def _divided(split: _Split, dataset: Any, column: str, what: str) -> dict[str, _Split]:
    """The rows of a data set of one split by the values of a column, which is read. Raises DataError."""
    if column not in (features := dataset.features or {}):
        raise DataError(f"{what}: data.split_column {column} is no column; its columns are {', '.join(features)}")
    values = [row[column] for row in dataset.select_columns([column])]
    names = rows_by_split(class_names(features[column], values))
    return {
        name: _Split(name, split.shards.only(column, {values[row] for row in rows}), len(rows), split.files)
        for name, rows in names.items()
    }
