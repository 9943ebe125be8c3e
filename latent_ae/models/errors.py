"""What can be wrong with a model."""

from latent_ae.errors import ModelError

__all__ = ["ModelError"]
