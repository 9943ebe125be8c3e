"""Models behind limits, batching and typed errors: what the app and its HTTP routes call."""

from latent_ae.service.errors import ServiceError
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.remote import RemoteDecode, RemoteEncode, RemoteReply
from latent_ae.service.results import (
    Encoded,
    Images,
    Inspection,
    ModelInfo,
    Reconstruction,
    Rival,
    Size,
)
from latent_ae.service.service import Service
from latent_ae.service.stats import ServiceStats

__all__ = [
    "Encoded",
    "Images",
    "Inspection",
    "ModelInfo",
    "Reconstruction",
    "RemoteDecode",
    "RemoteEncode",
    "RemoteReply",
    "Rival",
    "Service",
    "ServiceError",
    "ServiceLimits",
    "ServiceStats",
    "Size",
]
