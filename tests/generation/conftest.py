"""The latents that are trained on."""

from tests.generation.fixtures import made, source

__all__ = ["made", "source"]
