"""A data set turned into latents: written by several processes, resumed after a kill, checked, and trained on.

settings       what is asked for                          writer      the shards of one process
manifest       what the latents are, written first        shard       a shard on the disk, and its record
source_images  images, labels, captions of a data set     statistics  of latents and codes
encoder        the encoder side, one result an image      index       what is written last: index, statistics, lists
prepare        a folder made ready; what is missing       verification  whether a folder is what it says
dataset        the latents for training                   conversion  the formats that other trainers read

Importing the package imports no torch: each name is imported at its first use.
"""

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent_ae.latent_dataset.dataset import LatentDataset
    from latent_ae.latent_dataset.manifest import LatentDatasetError
    from latent_ae.latent_dataset.verification import Verification, verify

__all__ = ["LatentDataset", "LatentDatasetError", "Verification", "verify"]

_MODULES = {
    "LatentDataset": "dataset",
    "LatentDatasetError": "manifest",
    "Verification": "verification",
    "verify": "verification",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{__name__}.{_MODULES[name]}:{name}")
