"""Where images come from: one file a source, one table of them.

A source is a file with `build(config) -> SourceParts`, entered in SOURCES; tests/data/test_sources.py then holds it to
the contract.
"""

from collections.abc import Callable

from latent_ae.config import DataConfig
from latent_ae.data.loader import (
    Batch,
    EvaluationBatch,
    Sample,
    TrainingLoader,
    TrainingSamples,
    evaluation_batches,
    training_loader,
)
from latent_ae.data.skipped import SkippedImages
from latent_ae.data.source import DataError, ImageSource, SourceParts
from latent_ae.data.sources import digits, folder, hub, photos
from latent_ae.data.sources import stream as streamed
from latent_ae.data.sources.shards import StreamParts

__all__ = [
    "SOURCES",
    "Batch",
    "DataError",
    "EvaluationBatch",
    "ImageSource",
    "Sample",
    "SkippedImages",
    "SourceParts",
    "StreamParts",
    "TrainingLoader",
    "TrainingSamples",
    "evaluation_batches",
    "open_source",
    "training_loader",
]

SOURCES: dict[str, Callable[[DataConfig], SourceParts]] = {
    "digits": digits.build,
    "photos": photos.build,
    "folder": folder.build,
    "hub": hub.build,
    "stream": streamed.build,
}


def open_source(config: DataConfig) -> SourceParts:
    """The images of `config.source`, in a part to train on and a held-out part. Raises DataError."""
    if config.source not in SOURCES:
        raise DataError(f"data.source {config.source} is unknown: expected one of {', '.join(SOURCES)}")
    return SOURCES[config.source](config)
