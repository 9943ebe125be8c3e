"""The channels of an image that networks trained on pictures see."""

from dataclasses import dataclass

from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.io.image import WHITE, Color
from latent_ae.io.pixel_format import PixelFormat


@dataclass(frozen=True)
class View:
    """From the channels of images to the 1 (grey) or 3 (RGB) that a network sees."""

    pixels: PixelFormat
    background: Color = WHITE
    """seen behind transparent parts"""

    @classmethod
    def chosen(cls, pixels: PixelFormat, background: Color, setting: str) -> "View":
        """Raises UserError, naming what `setting` asks for, where it is not clear which channels are R, G and B."""
        if not pixels.shown_by_choice:
            raise UserError(
                f"{setting} compares 1 (grey) or 3 (RGB) channels, and the images have {pixels.channels}: give "
                "evaluation.rgb, the channels to compare, counted from 1, such as --evaluation.rgb 3 2 1"
            )
        return cls(pixels, background)

    @property
    def channels(self) -> int:
        """Their number: 1 or 3."""
        return len(self.pixels.shown)

    def __call__(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [-1, 1] -> [B, 1 or 3, H, W] in [-1, 1]."""
        return self.pixels.shown_tensor(images, self.background)

    def __str__(self) -> str:
        """For protocols: which channels are seen; "" where it is all of them."""
        if self.pixels.channels in (1, 3) and not self.pixels.rgb:
            return ""
        over = " over the background" if self.pixels.alpha != "none" else ""
        return f", of channels {', '.join(str(channel + 1) for channel in self.pixels.shown)}{over}"
