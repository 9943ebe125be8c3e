"""The JSON of a latent file's header and its metadata, every value checked. Needs no torch."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeGuard

from latent_ae.errors import UserError

PREFIX = "latent_ae."
"""of the metadata's names"""
TEXT_LENGTH = 1024
"""characters of a text for people"""

_MOST_CHANNELS, _LARGEST = 64, 1e300
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
_IDENTITY = re.compile(r"[0-9a-f]{64}")


class LatentFileError(UserError):
    """Something is not a latent file that can be used; the message is one line."""


@dataclass(frozen=True)
class Compute:
    """How one side of a model coded an image: where this differs, the same image may have other latents or pixels."""

    precision: str
    """exact, fp32, tf32, bf16 or fp16: what it became, never auto"""
    tile: int | None = None
    """side in pixels of the overlapping tiles, an approximation; None where the image went through whole"""
    tiles: int = 1
    """how many; 1 where the image went through whole"""

    def __str__(self) -> str:
        return f"{self.precision}, " + ("whole" if self.tile is None else f"{self.tiles} tiles of {self.tile} pixels")

    def to_json(self) -> dict[str, object]:
        """As it stands in files and replies."""
        return {"precision": self.precision, "tile": self.tile, "tiles": self.tiles}


class Metadata:
    """The metadata's strings as what they stand for. Every method raises LatentFileError for anything else."""

    def __init__(self, strings: Mapping[str, str]) -> None:
        self._strings = strings

    def text(self, name: str, missing: str | None = None) -> str:
        """A printable line; `missing`, if given, where files of earlier versions say nothing."""
        if missing is not None and PREFIX + name not in self._strings:
            return missing
        if not is_text(value := self._string(name)):
            self._refuse(name, value, f"one printable line of at most {TEXT_LENGTH} characters")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of a few words."""
        if (value := self._string(name)) not in choices:
            self._refuse(name, value, f"one of {', '.join(choices)}")
        return value

    def identity(self, name: str) -> str:
        """A sha256 in hex."""
        if not _IDENTITY.fullmatch(value := self._string(name)):
            self._refuse(name, value, "64 hex digits")
        return value

    def integer(self, name: str, least: int, most: int) -> int:
        """A whole number, both ends included."""
        value = self._json(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self._refuse(name, value, f"a whole number of {least} to {most}")
        return value

    def seed(self, name: str) -> int | None:
        """A seed that 63 bits hold, or None for null."""
        return None if self._json(name) is None else self.integer(name, 0, (1 << 63) - 1)

    def number(self, name: str) -> float | None:
        """A finite number, or None for null."""
        value = self._json(name)
        if value is None:
            return None
        if not isinstance(value, float) or not math.isfinite(value):
            self._refuse(name, value, "a finite number with a decimal point, or null")
        return value

    def compute(self, name: str) -> Compute | None:
        """How the encoder ran; None in files that do not say."""
        if PREFIX + name not in self._strings:
            return None
        value = self._json(name)
        if not isinstance(value, dict) or value.keys() != {"precision", "tile", "tiles"}:
            self._refuse(name, value, "an object of precision, tile and tiles")
        precision, tile, tiles = value["precision"], value["tile"], value["tiles"]
        whole = tile is None and tiles == 1
        tiled = type(tile) is int and tile >= 1 and type(tiles) is int and tiles > 1
        if not is_text(precision) or not (whole or tiled):
            self._refuse(name, value, "a precision, and either a tile's side in pixels and several tiles or null and 1")
        return Compute(precision, tile, tiles)

    def pixel_format(self, name: str) -> Mapping[str, object] | None:
        """The fields of `latent_ae.io.pixel_format.PixelFormat`; None in files without, of grey or RGB pictures."""
        if PREFIX + name not in self._strings:
            return None
        value = self._json(name)
        if not isinstance(value, dict) or value.keys() != _PIXEL_FIELDS.keys():
            self._refuse(name, value, f"an object of {', '.join(_PIXEL_FIELDS)}")
        for field, fits in _PIXEL_FIELDS.items():
            if not fits(value[field]):
                self._refuse(f"{name}.{field}", value[field], f"what a pixel format has as {field}")
        return value

    def sources(self, name: str, count: int) -> tuple[str, ...]:
        """The sha256 of `count` files, or none."""
        value = self._json(name)
        if not isinstance(value, list) or not all(
            isinstance(each, str) and _IDENTITY.fullmatch(each) for each in value
        ):
            self._refuse(name, value, "a list of sha256 in 64 hex digits")
        if len(value) not in (0, count):
            self._refuse(name, f"{len(value)} of them", f"one for each of the {count} images, or none")
        return tuple(value)

    def texts(self, name: str) -> dict[str, str]:
        """Printable lines by name."""
        value = self._json(name)
        if not isinstance(value, dict) or not all(is_text(each) for pair in value.items() for each in pair):
            self._refuse(name, value, "an object of printable strings")
        return value

    def _string(self, name: str) -> str:
        if (value := self._strings.get(PREFIX + name)) is None:
            raise LatentFileError(f"not a latent file: its metadata lack {PREFIX}{name}")
        return value

    def _json(self, name: str) -> object:
        return read_json(self._string(name), f"{PREFIX}{name}")

    def _refuse(self, name: str, got: object, expected: str) -> NoReturn:
        raise LatentFileError(f"not a latent file: {PREFIX}{name} is {shown(got)}, expected {expected}")


def is_text(value: object) -> bool:
    """Whether something is a line that can be shown to people without harm to their terminal."""
    return isinstance(value, str) and len(value) <= TEXT_LENGTH and value.isprintable()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _are_ranges(value: object) -> bool:
    if not isinstance(value, list) or len(value) > _MOST_CHANNELS:
        return False
    return all(isinstance(each, list) and len(each) == 2 and all(map(_is_number, each)) for each in value)


_PIXEL_FIELDS: Mapping[str, Callable[[object], bool]] = {
    "channels": lambda value: whole_numbers([value], most=1),
    "numbers": lambda value: isinstance(value, bool),
    "dtype": _DTYPES.__contains__,
    "ranges": _are_ranges,
    "gamma": _is_number,
    "bands": lambda value: whole_numbers(value, most=_MOST_CHANNELS),
    "alpha": ("none", "straight", "premultiplied").__contains__,
    "rgb": lambda value: whole_numbers(value, most=3),
    "unit": is_text,
}
"""the kind of each field of a pixel format, without torch; whether they fit together is the class's to say"""


def header_entries(text: bytes) -> dict[str, object]:
    """The entries of a header by name, from its JSON; none of them is checked. Raises LatentFileError."""
    try:
        # Not json.loads of the bytes: it would take UTF-16 and UTF-32 too.
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise LatentFileError(
            f"not a latent file: its header is not UTF-8, it starts with {shown(text[:16])}"
        ) from None
    entries = read_json(decoded, "its header")
    if not isinstance(entries, dict) or not decoded.startswith("{"):
        raise LatentFileError(f"not a latent file: expected an object as header, got {shown(decoded)}")
    return entries


def read_json(text: str, what: str) -> object:
    """What strict JSON stands for: no name twice, no NaN. Raises LatentFileError, for nesting without end too."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise LatentFileError(f"not a latent file: {what} is no JSON that can be read: {shown(str(error))}") from None


def whole_numbers(values: object, *, most: int) -> TypeGuard[list[int]]:
    """Whether it is a list of at most `most` numbers that 63 bits hold."""
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(each) is int and 0 <= each < 1 << 63 for each in values)  # to Python, True is an int


def shown(value: object) -> str:
    """Something from a stranger's file, short and printable."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(result := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is none of JSON's numbers")
