"""Settings from the command line: `--FIELD VALUE ...`, nested fields with a dot."""

from contextlib import suppress
from typing import get_args, get_origin

import yaml

from latent_ae.config.kinds import settings_of
from latent_ae.config.listing import unknown_setting
from latent_ae.config.section import ConfigError, S, Section, validate


def override(kind: type[S], tree: dict[str, object], options: dict[str, object]) -> S:
    """The settings of a tree with those of the command line over them. Raises ConfigError for a name or value."""
    _check_names(kind, options)
    for path, value in options.items():
        _set(kind, tree, path, value)
    return validate(kind, tree)


def split_options(argv: list[str]) -> dict[str, object]:
    """`--a.b VALUE` words by their dotted path. Raises ConfigError for a word that belongs to no option."""
    options: dict[str, object] = {}
    name: str | None = None
    values: list[str] = []
    for word in [*argv, "--"]:
        if word.startswith("-") and word[1:2].isalpha() and word != "-h":
            raise ConfigError(f"unknown option {word}: settings are given as --FIELD VALUE")
        if word.startswith("--") or word == "-h":
            if name is not None:
                options[name] = _value(values)
            name, given, value = word.removeprefix("--").partition("=")
            name = "help" if name == "-h" else name
            values = [value] if given else []
        elif name is None:
            raise ConfigError(f"unexpected argument {word!r}: settings are given as --FIELD VALUE")
        else:
            values.append(word)
    return options


def _value(values: list[str]) -> object:
    """The words after an option: none is a switch, several are a list, null is nothing."""
    if not values:
        return "true"
    if len(values) > 1:
        return values
    return None if values[0] in ("null", "None") else values[0]


def _check_names(kind: type[Section], options: dict[str, object]) -> None:
    known = settings_of(kind)
    for path in options:
        if path not in known:
            raise ConfigError(unknown_setting(path, known))


def _set(kind: type[Section], tree: dict[str, object], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        branch = tree.setdefault(parent, {})
        assert isinstance(branch, dict), f"{path} was checked against the settings"
        tree = branch
    annotation = settings_of(kind)[path].annotation
    if isinstance(value, str) and any(get_origin(arm) is tuple for arm in (annotation, *get_args(annotation))):
        value = _listed(value)
    tree[last] = value


def _listed(word: str) -> list[object]:
    """What one word gives where a list is expected: that in YAML's brackets, or itself alone."""
    if word.lstrip().startswith("["):
        with suppress(yaml.YAMLError):
            found = yaml.safe_load(word)
            return found if isinstance(found, list) else [word]
    return [word]
