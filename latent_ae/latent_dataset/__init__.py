"""A data set turned into latents: made by several processes, killed and gone on with, checked, and trained on.

settings    what is asked for                     views       images, labels and captions of a source
manifest    what the latents are                  encoder     the model's encoder side, one result an image
preparing   a folder made ready                   making      a shard of its images
work        the shards of one process             shard       a shard on the disk
index       what is written at the end            statistics  of the latents
dataset     the latents for training              verify      whether a folder is what it says
again       images encoded again                  index_check the index beside the shards' records
checksum    JSON that shows its damage            conversion  the forms that other trainers read
"""

from latent_ae.latent_dataset.dataset import LatentDataset
from latent_ae.latent_dataset.errors import LatentDatasetError
from latent_ae.latent_dataset.verify import Verification, verify

__all__ = ["LatentDataset", "LatentDatasetError", "Verification", "verify"]
