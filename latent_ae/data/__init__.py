"""Where images come from: one file a source, one table of them."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from latent_ae.config.kinds import Kinds
from latent_ae.data.loader import (
    Batch,
    EvaluationBatch,
    Sample,
    TrainingLoader,
    TrainingSamples,
    evaluation_batches,
    training_loader,
)
from latent_ae.data.settings import DataConfig
from latent_ae.data.skipped import SkippedImages
from latent_ae.data.source import DataError, ImageSource, SourceParts
from latent_ae.data.sources.digits import DigitsConfig
from latent_ae.data.sources.folder import FolderConfig
from latent_ae.data.sources.hub import HubConfig
from latent_ae.data.sources.photos import PhotosConfig
from latent_ae.data.sources.shards import StreamParts
from latent_ae.data.sources.stream import StreamConfig

__all__ = [
    "SOURCES",
    "AnySource",
    "Batch",
    "DataConfig",
    "DataError",
    "DigitsConfig",
    "EvaluationBatch",
    "FolderConfig",
    "HubConfig",
    "ImageSource",
    "PhotosConfig",
    "Sample",
    "SkippedImages",
    "SourceParts",
    "StreamConfig",
    "StreamParts",
    "TrainingLoader",
    "TrainingSamples",
    "evaluation_batches",
    "training_loader",
]

SOURCES: dict[str, type[DataConfig]] = {
    "digits": DigitsConfig,
    "photos": PhotosConfig,
    "folder": FolderConfig,
    "hub": HubConfig,
    "stream": StreamConfig,
}

AnySource = Annotated[
    SerializeAsAny[DataConfig], BeforeValidator(Kinds("data", "data.source", "digits", lambda: SOURCES))
]
"""a section `data`: the settings of one source"""
