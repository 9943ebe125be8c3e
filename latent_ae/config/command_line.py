"""Settings from a recipe and the command line: `--config NAME_OR_PATH --FIELD VALUE ...`, nested fields with a dot."""

import difflib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

import tyro
import yaml

from latent_ae.config import ConfigError, RunConfig, S, Section, flatten, load_yaml, validate

DEFAULT_RECIPE = "kl-digits"

_TRAIN_DESCRIPTION = (
    "Train an image autoencoder. Beside the settings below: --config NAME_OR_PATH (a recipe of train/configs or a YAML "
    "file), --resume auto|never|changed-data|PATH (a checkpoint folder), --preflight only (print the gradient table "
    "and stop)."
)

Preflight = Literal["on", "only"]


@dataclass(frozen=True)
class Invocation:
    """What was asked for: the run's settings, and how to start this time."""

    config: RunConfig
    resume: str
    """auto, never, changed-data, or the path of a checkpoint"""
    preflight: Preflight


def parse_run(argv: list[str], recipes: Path) -> Invocation:
    """Settings of a training run from its command line.

    Args:
        argv: without the program's name.
        recipes: folder of the YAML files that `--config NAME` means.

    Raises ConfigError with one line for anything unknown or wrong. `--help` prints every setting and exits.
    """
    options = split_options(argv)
    recipe = _recipe(_text(options.pop("config", DEFAULT_RECIPE), "config"), recipes)
    resume = _text(options.pop("resume", "auto"), "resume")
    preflight = _text(options.pop("preflight", "on"), "preflight")
    if preflight not in ("on", "only"):
        raise ConfigError(f"--preflight: got {preflight!r}, expected on or only")
    tree = load_yaml(recipe)
    tree.setdefault("name", recipe.stem)
    if options.pop("help", None) is not None:
        _put_a_path(tree)
        print_help(validate(RunConfig, tree), "train.py", _TRAIN_DESCRIPTION)
        raise SystemExit(0)
    config = override(RunConfig, tree, options)
    return Invocation(config, resume, "only" if preflight == "only" else "on")


def _put_a_path(tree: dict[str, object]) -> None:
    """Recipes leave the path of the images to the command line; help is given without."""
    data = tree.get("data")
    if isinstance(data, dict) and data.get("source") in ("folder", "hub", "stream"):
        data.setdefault("path", "PATH")


def override(kind: type[S], tree: dict[str, object], options: dict[str, object]) -> S:
    """The settings of a tree with those of the command line over them. Raises ConfigError for a name or value."""
    _check_names(kind, options)
    _drop_what_a_choice_replaces(tree, options)
    for path, value in options.items():
        _set(kind, tree, path, value)
    return validate(kind, tree)


def split_options(argv: list[str]) -> dict[str, object]:
    """`--a.b VALUE` words by their dotted path. Raises ConfigError for a word that belongs to no option."""
    options: dict[str, object] = {}
    name: str | None = None
    values: list[str] = []
    for word in [*argv, "--"]:
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


def _text(value: object, option: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"--{option} needs one value")
    return value


def _recipe(name: str, recipes: Path) -> Path:
    if (file := recipes / f"{name}.yaml").is_file():
        return file
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in recipes.glob("*.yaml")))
    raise ConfigError(f"--config: there is neither a recipe nor a file {name!r}; the recipes are {known}")


def _check_names(kind: type[Section], options: dict[str, object]) -> None:
    known = flatten(kind().model_dump())
    for path in options:
        if path not in known:
            close = difflib.get_close_matches(path, known, n=1)
            hint = f"; did you mean --{close[0]}?" if close else "; --help lists them all"
            raise ConfigError(f"unknown setting --{path}{hint}")


def _drop_what_a_choice_replaces(tree: dict[str, object], options: dict[str, object]) -> None:
    """`--model.init_from` on the command line takes the place of the recipe's own architecture, and of nothing else."""
    if options.get("model.init_from") is not None:
        given = tree.get("model")
        trained = {"trained": given["trained"]} if isinstance(given, dict) and "trained" in given else {}
        tree["model"] = {"preset": None} | trained


def _set(kind: type[Section], tree: dict[str, object], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        branch = tree.setdefault(parent, {})
        assert isinstance(branch, dict), f"{path} was checked against the settings"
        tree = branch
    if _is_tuple(kind, path) and isinstance(value, str):
        value = _listed(value)
    tree[last] = value


def _is_tuple(kind: type[Section], path: str) -> bool:
    annotation: object = kind
    for part in path.split("."):
        annotation = annotation.model_fields[part].annotation  # type: ignore[attr-defined]  # names were checked
    return any(get_origin(arm) is tuple for arm in (annotation, *get_args(annotation)))


def _listed(word: str) -> list[object]:
    """What one word gives where a list is expected: that in YAML's brackets, or itself alone."""
    if word.lstrip().startswith("["):
        with suppress(yaml.YAMLError):
            found = yaml.safe_load(word)
            return found if isinstance(found, list) else [word]
    return [word]


def print_help(default: Section, program: str, description: str) -> None:
    """Every setting with its meaning and the value it has now."""
    tyro.cli(
        type(default),
        default=default,
        args=["--help"],
        description=description,
        prog=program,
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),
    )
