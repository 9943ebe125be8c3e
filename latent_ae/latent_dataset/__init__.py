"""A data set turned into latents: written by several processes, resumed after a kill, verified, and trained on.

    FOLDER/                       written by     read by
      manifest.json               resume         everything: what the latents are; written first
      shards/00000.safetensors    writer         dataset, verification
      shards/00000.json           writer         index, resume, verification: the shard's record
      stats.json                  index          dataset, verification
      skipped.jsonl               index          people: images left out, and why
      duplicates.jsonl            index          people: images that are the same as an earlier one
      README.md                   index          the hub: a data card
      index.parquet               index          dataset, verification; written last: without it nothing is complete

    settings   what is asked for           shard         a shard on the disk, and its record
    manifest   what the latents are        statistics    of the latents or codes of a shard
    images     the images to encode        index         the files written once all shards exist
    encoder    images -> latents           dataset       the latents for training
    resume     which shards are missing    verification  checks of a folder
    writer     the missing shards          conversion    the formats that other trainers read

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
