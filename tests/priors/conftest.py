"""The latents that are trained on."""

from tests.priors.fixtures import codes, made, source

__all__ = ["codes", "made", "source"]
