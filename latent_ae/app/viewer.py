"""A viewer made for pixels: two of several pictures of one size beside a divider, in any size, and their difference.

`viewer.js` is a custom element, whose markup is written here; `viewer.css` is its style.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from latent_ae.app.gradio_internals import file_address


def _beside(suffix: str) -> str:
    return Path(__file__).with_suffix(suffix).read_text(encoding="utf-8")


HEAD = f'<style id="pixel-viewer-style" media="not all">{_beside(".css")}</style><script>{_beside(".js")}</script>'
"""What the page needs in its <head>; the style is for the viewers alone."""


@dataclass(frozen=True)
class Picture:
    """A picture for people."""

    path: str
    """of a file that visitors may fetch"""
    name: str
    figures: str = ""
    """how close it is, in a few words"""

    @property
    def caption(self) -> str:
        """Name and figures in a line."""
        return " \N{MIDDLE DOT} ".join(filter(None, (self.name, self.figures)))


def viewer(pictures: Sequence[Picture]) -> str:
    """Markup of the viewer: at first the first picture is on the left, the second on the right.

    Raises ValueError for fewer than two pictures.
    """
    if len(pictures) < 2:
        raise ValueError(f"a viewer compares two pictures, got {len(pictures)}")
    links = "".join(
        f'<a href="{escape(file_address(each.path))}" data-figures="{escape(each.figures)}">{escape(each.name)}</a>'
        for each in pictures
    )
    return f"<pixel-viewer>{links}</pixel-viewer>"
