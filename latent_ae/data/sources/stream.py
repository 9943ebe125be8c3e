"""The source `stream`: data sets that are read in order from where they lie, without unpacking them to a disk."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from latent_ae.config.section import Count
from latent_ae.data.settings import DataConfig
from latent_ae.data.source import DataError
from latent_ae.data.sources.datasets_library import DatasetConfig, choose_splits, image_column, locate, unreadable
from latent_ae.data.sources.shards import KEY, CollectedImages, Shards, StreamParts

_FILES = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


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
    def _no_buckets(self) -> Self:
        if self.buckets:
            raise ValueError(
                "data.buckets needs images by number, which data.source stream does not give: leave it out"
            )
        return self

    def open(self) -> StreamParts:
        """Open `data.path`: webdataset tars, parquet or arrow files, a folder of them, or a hub name.

        Splits, held-out images and configurations are those of `hub`. No more than the first rows are read here.
        Raises DataError.
        """
        what = f"data.path {self.path}"
        splits, files, root = _open_splits(self.path)
        train_name, heldout_name = choose_splits(
            list(splits), train_split=self.train_split, heldout_split=self.heldout_split, what=what
        )

        def shards(split: str) -> Shards:
            dataset, column = image_column(splits[split], self.image_column, what, keep=[KEY])
            named = files[split] if len(files[split]) == dataset.num_shards else []
            return Shards(dataset, column, named, root=root, split=split, what=f"{what}, split {split}")

        train = shards(train_name)
        if heldout_name is None:
            train, heldout = train.part(self.heldout_share, 1.0), train.part(0.0, self.heldout_share)
        else:
            heldout = shards(heldout_name)
        if not any(True for shard in range(len(train)) for _ in train.images(shard)):
            raise DataError(
                f"{train.what} holds no images to train on: its {len(train)} shards are empty or all held out"
            )
        return StreamParts(
            CollectedImages(train, self.collected_images),
            CollectedImages(heldout, self.collected_images),
            stream=train,
            streams=self.streams,
            shuffle_block=self.shuffle_block,
        )


def _open_splits(path: str) -> tuple[dict[str, Any], dict[str, list[str]], str]:
    """Split name -> datasets.IterableDataset and -> its files, and the folder they lie in."""
    import datasets  # noqa: PLC0415 - takes seconds, and few other sources need it

    local = Path(path).expanduser()
    if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
        raise DataError(f"data.path {path} was written by save_to_disk, which needs no stream: take data.source hub")
    place, keywords = locate(path, _FILES)
    try:
        builder = datasets.load_dataset_builder(place, **keywords)
        splits = {str(name): dataset for name, dataset in builder.as_streaming_dataset().items()}
    except Exception as error:
        raise unreadable(path, error) from error
    # Other formats (folders of images, say) do not make one shard of each file.
    data_files = (builder.config.data_files or {}) if builder.name in _FILES.values() else {}
    files = {name: [str(file) for file in data_files.get(name, [])] for name in splits}
    return splits, files, str(local.resolve().parent if local.is_file() else local.resolve())
