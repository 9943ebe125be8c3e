"""Lists of settings for help and for checks before torch is imported: what each may be, and is by default.

`python docs/make_settings.py` writes them into settings.json, as the classes of settings bring torch along.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from latent_ae.config.kinds import choices_of
from latent_ae.config.section import Section

FILE = Path(__file__).with_name("settings.json")
_KINDS = {int: "INT", float: "NUMBER", str: "TEXT", type(None): "null"}


@dataclass(frozen=True)
class Setting:
    """A setting of a program."""

    path: str
    """dotted"""
    values: str
    """what it may be: choices, or INT, NUMBER, TEXT"""
    default: Any
    help: str
    of: dict[str, list[str]] = field(default_factory=dict)
    """the kinds that have it, by the setting that chooses them; empty where all have it"""

    def is_of(self, kinds: Mapping[str, object]) -> bool:
        """Whether it is there with these kinds, by the setting that chooses each."""
        return all(kinds.get(key) in names for key, names in self.of.items())


def listed(config: Section, names: Mapping[str, Iterable[str]], prefix: str = "") -> Iterator[Setting]:
    """The settings of a config with the values that it has; `names` are those that some may be, by their path."""
    names = {**choices_of(type(config)), **names}
    for name, about in type(config).model_fields.items():
        value, path = getattr(config, name), prefix + name
        if isinstance(value, Section):
            yield from listed(value, names, f"{path}.")
        else:
            values = "|".join(names[path]) if path in names else _values(about.annotation)
            text = " ".join((about.description or "").split())
            yield Setting(path, values, json.loads(json.dumps(value)), text)


def merged(variants: Mapping[str, Mapping[str, list[Setting]]]) -> list[Setting]:
    """One list of the settings that differ in a kind, by the setting that chooses it and the kind's name."""
    having: dict[str, tuple[Setting, dict[str, list[str]]]] = {}
    for key, kinds in variants.items():
        for kind, settings in kinds.items():
            for setting in settings:
                _, owners = having.setdefault(json.dumps(asdict(setting)), (setting, {}))
                owners.setdefault(key, []).append(kind)
    settings = []
    for setting, owners in having.values():
        if setting.path in variants:  # it chooses, and each kind has a class for itself
            if setting.default == next(iter(variants[setting.path])):
                settings.append(setting)
            continue
        few = {key: names for key, names in owners.items() if len(names) < len(variants[key])}
        settings.append(replace(setting, of=few))
    return settings


@cache
def settings_of_program(program: str) -> list[Setting]:
    """Those of `train`, `encode-dataset`, `train-prior` or `evaluate`, of all kinds; needs no torch."""
    return [Setting(**each) for each in json.loads(FILE.read_text(encoding="utf-8"))[program]]


def unknown_setting(path: str, known: Iterable[str]) -> str:
    """What to say of a setting that there is not, with the one that is most like it."""
    known = list(known)
    last = [each for each in known if each.rpartition(".")[2] == path.rpartition(".")[2]]
    close = last[:1] if len(last) == 1 else difflib.get_close_matches(path, known, n=1)
    return f"unknown setting --{path}" + (f"; did you mean --{close[0]}?" if close else "; --help all lists them")


def _values(annotation: Any) -> str:
    """What a type takes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0])
    if origin in (Union, UnionType):
        return "|".join(dict.fromkeys(map(_values, arguments)))
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is tuple:
        return f"{_values(arguments[0])} ..." if arguments[-1] is Ellipsis else " ".join(map(_values, arguments))
    return "true|false" if annotation is bool else _KINDS[annotation]
