"""What can be wrong with a model."""

from latent_ae.errors import UserError


class ModelError(UserError):
    """A model that cannot be built or loaded as asked; the message is one line."""
