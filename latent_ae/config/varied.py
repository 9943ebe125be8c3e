"""The settings that a sweep varies: `--vary FIELD=A,B,...` beside the other words. Needs no torch."""

import re
from collections.abc import Sequence

from latent_ae.config.section import ConfigError

_COMMA = re.compile(r",(?![^\[]*\])")
"""between values, but not inside the brackets of a list"""
_OWN = ("name", "output_dir")
"""settings that say where a run is written, which a sweep decides for each of its runs"""


def split_varied(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of each varied field as they were typed, and the words that are left.

    One --vary takes one FIELD=A,B or several, and may be repeated; a list as a value stands in brackets. Raises
    ConfigError for one that is not of this form, that gives a value twice, or whose field is given elsewhere as well.
    """
    varied: dict[str, list[str]] = {}
    rest: list[str] = []
    inside = False
    for word in argv:
        if word.startswith("-"):
            inside = word == "--vary" or word.startswith("--vary=")
            words = [word.removeprefix("--vary=")] * word.startswith("--vary=")
        else:
            words = [word] * inside
        if not inside:
            rest.append(word)
        for each in words:
            field, values = _values(each)
            if field in varied:
                raise ConfigError(f"--vary {field} is given twice: give all of its values in one, {field}=A,B")
            varied[field] = values
    for field in varied:
        if any(word.partition("=")[0] == f"--{field}" for word in rest):
            raise ConfigError(f"--{field} and --vary {field} are both given: give one of them")
    return varied, rest


def _values(word: str) -> tuple[str, list[str]]:
    field, given, text = word.partition("=")
    values = _COMMA.split(text)
    if not given or not field or not all(values):
        raise ConfigError(f"--vary {word}: expected FIELD=A,B,..., such as loss.beta=1e-6,1e-4")
    if field in _OWN:
        raise ConfigError(f"--vary {field}: a sweep names the folder of each run by the values that it varies")
    if len(set(values)) < len(values):
        raise ConfigError(f"--vary {word}: each value may be given once")
    return field, values
