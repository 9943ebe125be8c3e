"""The latents that are trained on."""

from tests.priors.fixtures import made, source

__all__ = ["made", "source"]
