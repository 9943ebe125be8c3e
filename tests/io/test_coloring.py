"""Colours are seen in every mode of a picture."""

import pytest
from PIL import Image

from latent_ae.io.coloring import has_color


@pytest.mark.parametrize(
    ("mode", "colored"), [("RGB", True), ("RGBA", True), ("CMYK", True), ("P", True), ("L", False)]
)
def test_colour_is_seen_in_every_mode(mode: str, colored: bool) -> None:
    image = Image.new("RGB", (300, 200), (90, 90, 90))
    assert not has_color(image)
    image.paste((200, 40, 40), (0, 0, 60, 60))
    assert has_color(image.convert(mode)) is colored
    assert not has_color(Image.new("I;16", (30, 20)))
