"""What a program sets for its process, which is its own: a library leaves it to those who use it."""

from latent_ae.allocator import use_huge_pages
from latent_ae.deferred_imports import defer_imports


def own_process() -> None:
    """Start fast and take memory fast. A program calls it before it imports torch or diffusers."""
    use_huge_pages()
    defer_imports()
