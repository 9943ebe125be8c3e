"""What the values of an image mean: its channels, and the numbers that a model sees as -1 and 1.

    array [H,W,C] in the data's units -> to_tensor -> [C,H,W] float32 in [-1, 1] -> from_tensor -> array
                                      -> preview   -> uint8 [H,W,1 or 3], for people and networks that take pictures

Pictures are 8-bit sRGB levels, of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels. Numbers are the values of a
file as they are, of any type and of 1 to 64 channels, within stated ranges.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from latent_ae.errors import BrokenImage, UserError
from latent_ae.io.image import WHITE, Color, Pixels, from_tensor, to_tensor, to_uint8

FILE = "pixel_format.json"
"""beside the weights, in a model directory whose pixels are not grey or RGB pictures"""
MAX_CHANNELS = 64

Array = NDArray[Any]
"""[H, W, C] in the units of the data, of any number type"""
Range = tuple[float, float]
"""(low, high): the values that a model sees as -1 and 1"""
DType = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
Alpha = Literal["none", "straight", "premultiplied"]

_EXACT_IN_FLOAT32 = ("uint8", "int8", "uint16", "int16", "float16")
_SHOWN_RANGES = 4
_CHECKER_PIXELS, _CHECKER_LEVELS = 8, (204, 255)


@dataclass(frozen=True)
class PixelFormat:
    """The pixels that a model encodes and decodes."""

    channels: int
    """of the images, 1 to 64"""
    numbers: bool = False
    """whether images are read as numbers, and not as pictures"""
    dtype: DType = "uint8"
    """of decoded images"""
    ranges: tuple[Range, ...] = ((0.0, 255.0),)
    """one for all channels, or one a channel; values outside are clipped"""
    gamma: float = 1.0
    """a value's share of its range is raised to 1 / gamma before a model sees it: above 1 dark values are spread"""
    bands: tuple[int, ...] = ()
    """numbers: the channels of a file that are taken, in this order, counted from 1; empty takes all"""
    alpha: Alpha = "none"
    """pictures: whether the last channel is alpha, and whether the others are multiplied by it"""
    rgb: tuple[int, ...] = ()
    """channels shown as grey (one) or as R, G, B (three), counted from 1; empty takes the first one or three"""
    unit: str = ""
    """of the values, for people"""

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise UserError(f"images have 1 to {MAX_CHANNELS} channels, got {self.channels}")
        if not self.numbers and self.channels > 4:
            raise UserError(
                f"pictures have 1 to 4 channels, got {self.channels}: images of more channels are read as numbers: "
                "give data.value_range (low, high) or data.percentiles"
            )
        if len(self.ranges) not in (1, self.channels):
            raise UserError(f"expected one range, or {self.channels} (one a channel), got {len(self.ranges)}")
        for low, high in self.ranges:
            if not -np.inf < low < high < np.inf:
                raise UserError(f"a range of values needs low < high, got {low:g} and {high:g}")
        if not 0 < self.gamma < np.inf:
            raise UserError(f"gamma is a number above 0, got {self.gamma:g}")
        if self.bands and len(self.bands) != self.channels:
            raise UserError(f"data.bands names {len(self.bands)} channels, the model's images have {self.channels}")
        colors = self.channels - (self.alpha != "none")
        if self.rgb and (len(self.rgb) not in (1, 3) or not all(1 <= each <= colors for each in self.rgb)):
            raise UserError(
                f"evaluation.rgb takes one channel (grey) or three (R, G, B) of 1 to {colors}, got "
                f"{', '.join(map(str, self.rgb))}"
            )

    @classmethod
    def picture(cls, channels: int, *, alpha: Alpha | None = None, rgb: Sequence[int] = ()) -> "PixelFormat":
        """Pictures of 1 to 4 channels; alpha is straight unless said otherwise. Raises UserError."""
        has_alpha = channels in (2, 4)
        return cls(channels, alpha=(alpha or "straight") if has_alpha else "none", rgb=tuple(rgb))

    @property
    def is_default(self) -> bool:
        """Whether these are grey or RGB pictures, which need no file to tell."""
        return self.channels in (1, 3) and self == PixelFormat(self.channels)

    @property
    def is_deep(self) -> bool:
        """Whether values have more than 8 bits."""
        return np.dtype(self.dtype).itemsize > 1

    @property
    def shown(self) -> tuple[int, ...]:
        """The channels, from 0, that people and networks that take pictures see: one (grey) or three (R, G, B)."""
        if self.rgb:
            return tuple(each - 1 for each in self.rgb)
        colours = self.channels - (self.alpha != "none")
        return (0, 1, 2) if colours >= 3 else (0,)

    @property
    def shown_by_choice(self) -> bool:
        """Whether it is clear which channels are seen: by `rgb`, or because they are all colours."""
        return bool(self.rgb) or self.channels - (self.alpha != "none") in (1, 3)

    def array(self, image: Image.Image | Array, background: Color = WHITE, *, whole: bool = True) -> Array:
        """A loaded image, a picture or the numbers of a file, as [H, W, channels].

        `background` is laid behind the transparency of pictures without an alpha channel. Raises BrokenImage for
        another number of channels, for values that are not finite, and as `to_uint8` does.
        """
        if isinstance(image, Image.Image):
            if self.numbers:
                raise TypeError("expected the numbers of a file, got a picture")
            return self.with_alpha(to_uint8(image, self.channels, background, whole=whole))
        if image.ndim != 3:
            raise ValueError(f"expected an array [H, W, C], got {list(image.shape)}")
        count = image.shape[2]
        if self.bands:
            if max(self.bands) > count or min(self.bands) < 1:
                raise BrokenImage(
                    f"it has {count} channels, data.bands asks for {', '.join(map(str, self.bands))} (counted from 1)"
                )
            image = image[:, :, [band - 1 for band in self.bands]]
        elif count != self.channels:
            raise BrokenImage(
                f"it has {count} channels, the model's images have {self.channels}: give model.image_channels, or "
                "choose channels by data.bands"
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise BrokenImage(f"{int((~np.isfinite(image)).sum())} of its {image.size} values are not finite")
        return image

    def previews(self, images: torch.Tensor) -> list[Pixels]:
        """`preview` of each of a batch [N, C, H, W] in [-1, 1]."""
        return [self.preview(array) for array in self.from_tensor(images)]

    def with_alpha(self, levels: Array) -> Array:
        """Levels [H, W, C] with straight alpha, if they have any, as the format has them; numbers as they are."""
        if self.alpha != "premultiplied":
            return levels
        colours = levels[:, :, :-1].astype(np.uint32) * levels[:, :, -1:]
        return np.concatenate([((colours + 127) // 255).astype(np.uint8), levels[:, :, -1:]], axis=2)

    def straight(self, levels: Array) -> Array:
        """What `with_alpha` was given, but for rounding: files hold straight alpha; black where it is 0."""
        if self.alpha != "premultiplied":
            return levels
        colours, alpha = levels[:, :, :-1].astype(np.uint32), levels[:, :, -1:].astype(np.uint32)
        opaque = np.maximum(alpha, 1)
        whole = ((colours * 255 + opaque // 2) // opaque).clip(0, 255) * (alpha > 0)
        return np.concatenate([whole.astype(np.uint8), levels[:, :, -1:]], axis=2)

    def clips(self, array: Array) -> bool:
        """Whether values [H, W, C] lie outside of their range."""
        low, high = np.array(self.ranges, np.float64).T
        return bool((array.min((0, 1)) < low).any() or (array.max((0, 1)) > high).any())

    def to_tensor(self, array: Array) -> torch.Tensor:
        """[H, W, C] in the data's units -> [C, H, W] float32 in [-1, 1], values outside of the range clipped."""
        if not self.numbers:
            return to_tensor(array)
        kind = np.float32 if array.dtype.name in _EXACT_IN_FLOAT32 else np.float64
        values = torch.from_numpy(array.transpose(2, 0, 1).astype(kind, order="C"))
        low, high = self._ends(values)
        share = ((values - low) / (high - low)).clamp_(0, 1)
        if self.gamma != 1:
            share = share.pow_(1 / self.gamma)
        return share.mul_(2).sub_(1).float()

    def from_tensor(self, images: torch.Tensor) -> Array:
        """[C, H, W] or [N, C, H, W] floats in [-1, 1] -> [H, W, C] or [N, H, W, C] in the data's units and `dtype`.

        Values outside of [-1, 1] are clipped, integers rounded to the nearest. Raises ValueError for NaN.
        """
        if not self.numbers:
            return from_tensor(images)
        if images.isnan().any():
            raise ValueError(f"the image holds NaN in {int(images.isnan().sum())} of {images.numel()} values")
        values = self.in_units(images).cpu().numpy()
        if np.dtype(self.dtype).kind in "iu":
            limits = np.iinfo(self.dtype)
            values = np.floor(values + 0.5).clip(limits.min, limits.max)
        return np.ascontiguousarray(np.moveaxis(values, -3, -1).astype(self.dtype))

    def in_units(self, images: torch.Tensor) -> torch.Tensor:
        """[..., C, H, W] in [-1, 1] -> the same in the data's units, float64, not rounded."""
        share = (images.detach().double().clamp(-1, 1) + 1) / 2
        if self.gamma != 1:
            share = share.pow(self.gamma)
        low, high = self._ends(share)
        return share * (high - low) + low

    def shown_tensor(self, images: torch.Tensor, background: Color = WHITE) -> torch.Tensor:
        """[..., C, H, W] in [-1, 1] -> [..., 1 or 3, H, W]: the channels that are seen, transparency over a colour."""
        if self.channels in (1, 3) and not self.rgb:
            return images
        colors = images[..., list(self.shown), :, :]
        if self.alpha == "none":
            return colors
        behind = to_tensor(to_uint8(Image.new("RGB", (1, 1), background), len(self.shown))).to(images)
        clear = (1 - images[..., -1:, :, :]) / 2
        own = colors if self.alpha == "premultiplied" else colors - clear * (colors + 1)
        return own + clear * (behind + 1)

    def preview(self, array: Array) -> Pixels:
        """[H, W, C] in the data's units -> [H, W, 1 or 3] uint8, transparent parts over a checkerboard."""
        levels = array if not self.numbers else from_tensor(self.to_tensor(array))
        shown = levels[:, :, list(self.shown)]
        if self.alpha == "none":
            return shown
        opacity = levels[:, :, -1:].astype(np.float64) / 255
        y, x = np.ogrid[: shown.shape[0], : shown.shape[1]]
        dark = (y // _CHECKER_PIXELS + x // _CHECKER_PIXELS) % 2
        board = np.where(dark, *_CHECKER_LEVELS)[:, :, None]
        over = shown * (1 if self.alpha == "premultiplied" else opacity) + (1 - opacity) * board
        return np.floor(over + 0.5).clip(0, 255).astype(np.uint8)

    def replace(self, **changes: Any) -> "PixelFormat":
        """The format with some fields changed. Raises UserError."""
        return replace(self, **changes)

    def decodes_as(self, other: "PixelFormat") -> bool:
        """Whether both give the same values: they may differ in what they are read from, and how they are shown."""
        return self.replace(bands=(), rgb=(), unit="") == other.replace(bands=(), rgb=(), unit="")

    def describe(self) -> str:
        """For people: "3 channels, float32 in 0..4000 reflectance"."""
        what = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGBA"}.get(self.channels, "")
        if not self.numbers:
            return what + (f" ({self.alpha} alpha)" if self.alpha != "none" else "")
        unit = f" {self.unit}" if self.unit else ""
        gamma = f", gamma {self.gamma:g}" if self.gamma != 1 else ""
        count = f"{self.channels} channel{'s' if self.channels > 1 else ''}"
        return f"{count}, {self.dtype} in {self.describe_ranges()}{unit}{gamma}"

    def describe_preview(self) -> str:
        """For people: "channels 3, 2, 1 of 5 in 8 bits", what `preview` shows; '' if it shows all that there is."""
        if self.is_default:
            return ""
        number = "channel" if len(self.shown) == 1 else "channels"
        shown = f"{number} {', '.join(str(place + 1) for place in self.shown)} of {self.channels}"
        return shown + " in 8 bits" * self.is_deep + ", over a checkerboard" * (self.alpha != "none")

    def describe_ranges(self) -> str:
        """For people: "0..4000", or one a channel."""
        shown = ", ".join(f"{low:g}..{high:g}" for low, high in self.ranges[:_SHOWN_RANGES])
        return shown + (", ..." if len(self.ranges) > _SHOWN_RANGES else "")

    def to_json(self) -> str:
        """What `from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, what: str = "the pixel format") -> "PixelFormat":
        """Raises UserError, naming `what`, for anything that `to_json` does not write."""
        try:
            tree = json.loads(text)
            names = {each.name for each in fields(cls)}
            if not isinstance(tree, dict) or not set(tree) <= names:
                raise ValueError(f"expected the keys {', '.join(sorted(names))}")
            tree["ranges"] = tuple((float(low), float(high)) for low, high in tree.get("ranges", [(0, 255)]))
            tree["bands"], tree["rgb"] = (tuple(map(int, tree.get(key, ()))) for key in ("bands", "rgb"))
            made = cls(**tree)
            np.dtype(made.dtype)
        except (TypeError, ValueError, UserError) as error:
            raise UserError(f"{what} cannot be read: {' '.join(str(error).split())}") from None
        return made

    def _ends(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(low, high), each [1 or C, 1, 1], of the values' type and device."""
        ends = torch.tensor(self.ranges, dtype=values.dtype, device=values.device)
        return ends[:, 0, None, None], ends[:, 1, None, None]


def read_pixel_format(folder: Path, channels: int) -> PixelFormat:
    """That of the model in a folder: by its file, else pictures of as many channels. Raises UserError."""
    file = folder / FILE
    if not file.is_file():
        if channels > 4:
            raise UserError(
                f"the model takes images of {channels} channels, and {folder} has no {FILE} that says what their "
                "values are"
            )
        return PixelFormat.picture(channels)
    found = PixelFormat.from_json(file.read_text(encoding="utf-8"), str(file))
    if found.channels != channels:
        raise UserError(f"{file} is of {found.channels} channels, the model takes {channels}")
    return found
