"""What can be wrong with a folder of latents."""

from latent_ae.errors import UserError


class LatentDatasetError(UserError):
    """A folder that is no data set of latents, is not complete or was made otherwise; the message is one line."""
