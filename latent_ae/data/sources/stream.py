"""The source `stream`: data sets that are read in order from where they lie, without unpacking them to a disk."""

from latent_ae.config import DataConfig
from latent_ae.data.sources.shards import StreamParts, open_shards


def build(config: DataConfig) -> StreamParts:
    """Open `data.path`: webdataset tars, parquet or arrow files, a folder of them, or a hub name. Raises DataError."""
    return open_shards(
        str(config.path),
        image_column_name=config.image_column,
        train_split=config.train_split,
        heldout_split=config.heldout_split,
        heldout_share=config.heldout_share,
        collected_images=config.collected_images,
    )
