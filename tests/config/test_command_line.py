"""Every value of every setting is taken as people type it: the cases are made from the settings themselves."""

import argparse
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
import yaml
from pydantic.fields import FieldInfo

from latent_ae.cli.before_torch import check_names
from latent_ae.config import ConfigError, Section, flatten, validate
from latent_ae.config.command_line import override, split_options
from latent_ae.config.listing import settings_of_program
from latent_ae.config.programs import PROGRAMS
from latent_ae.data import SOURCES
from latent_ae.evaluation.images import MeasureConfig
from latent_ae.export.proof import ProbeConfig
from latent_ae.latent_dataset.settings import EncodeConfig
from latent_ae.models import PRESETS
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.priors import PRIORS
from latent_ae.priors.settings import PriorRunConfig
from latent_ae.training.gan.losses import ADVERSARIAL
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.settings import RunConfig

SETTINGS = (RunConfig, EncodeConfig, PriorRunConfig, MeasureConfig, ProbeConfig)
Typed = tuple[Any, list[str]]
"""a value, and the words that people type for it"""


def fields(settings: Section, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted path, those of its kinds of bottleneck and data included."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Section):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, field


PLAIN: dict[Any, list[Typed]] = {
    type(None): [(None, ["null"]), (None, ["None"])],
    bool: [
        *((True, [word]) for word in ("true", "True", "yes", "on", "1")),
        *((False, [word]) for word in ("false", "False", "no", "off", "0")),
        (True, []),
    ],
    str: [(word, [word]) for word in ("digits", "007", "1e-3", "true", "a b", "~/some folder", "[x]")],
}


def typed(annotation: Any, bounds: Sequence[Any] = ()) -> list[Typed]:
    """Values that a type takes: all of its choices, or examples within its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for each in arguments[1:] for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return typed(arguments[0], inner)
    if origin in (Union, UnionType):
        return [each for arm in arguments for each in typed(arm, bounds)]
    if origin is Literal:
        return [(choice, [str(choice)]) for choice in arguments]
    if origin is tuple:
        return _lists(arguments)
    return PLAIN[annotation] if annotation in PLAIN else _numbers(annotation, bounds)


def _lists(arguments: Sequence[Any]) -> list[Typed]:
    """Words side by side, and a list in YAML's brackets with and without a space."""
    kinds = [arguments[0]] * 2 if arguments[-1] is Ellipsis else arguments
    pairs = [typed(kind)[0] for kind in kinds]
    values, words = tuple(value for value, _ in pairs), [word for _, each in pairs for word in each]
    listed = [(values, words), (values, [f"[{', '.join(words)}]"]), (values, [f"[{','.join(words)}]"])]
    return [*listed, (values[:1], words[:1])] if arguments[-1] is Ellipsis else listed


def _numbers(annotation: Any, bounds: Sequence[Any]) -> list[Typed]:
    assert annotation in (int, float), f"an example for {annotation} has to be written"
    if annotation is int:
        least = next((each.ge for each in bounds if isinstance(each, annotated_types.Ge)), -3)
        return [(least, [str(least)]), (least + 1, [str(least + 1)])]
    return [(value, [word]) for value, word in _floats(bounds)]


def _floats(bounds: Sequence[Any]) -> list[tuple[float, str]]:
    def allowed(value: float) -> bool:
        checks = {
            annotated_types.Ge: lambda bound: value >= bound.ge,
            annotated_types.Gt: lambda bound: value > bound.gt,
            annotated_types.Le: lambda bound: value <= bound.le,
            annotated_types.Lt: lambda bound: value < bound.lt,
        }
        return all(checks[type(bound)](bound) for bound in bounds)

    spelled = {0.5: "0.5", 1e-6: "1e-6", 0.25: ".25", 1.0: "1", 3.0: "3.0", 0.0: "0", -0.5: "-0.5", 2500.0: "2.5e+3"}
    return [(value, word) for value, word in spelled.items() if allowed(value)]


NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "loss.reconstruction": lambda: RECONSTRUCTION,
    "adversarial.loss": lambda: ("none", *ADVERSARIAL),
    "model.preset": lambda: PRESETS,
}
"""settings that take a name of a table"""
BOTTLENECK = {"fsq": {"levels": [4, 3]}, **{kind: {"codebook_size": 8} for kind in ("vq", "ema_vq", "gumbel")}}


def cases() -> Iterator[Any]:
    """Each setting, those that only some kinds have with what chooses such a kind."""
    for settings in SETTINGS:
        for path, field in fields(settings()):
            yield pytest.param(settings, {}, path, field, id=f"{settings.__name__}.{path}")
    for kind in BOTTLENECKS:
        chosen = {"bottleneck": {"kind": kind, **BOTTLENECK.get(kind, {})}}
        for path, field in fields(validate(RunConfig, copy.deepcopy(chosen))):
            if path.startswith(("bottleneck.", "loss.")):
                yield pytest.param(RunConfig, chosen, path, field, id=f"{kind}.{path}")
    for source, config in SOURCES.items():
        chosen = {"data": {"source": source} | ({"path": "x"} if "path" in config.model_fields else {})}
        for path, field in fields(validate(RunConfig, copy.deepcopy(chosen))):
            if path.startswith("data."):
                yield pytest.param(RunConfig, chosen, path, field, id=f"{source}.{path}")
    for kind in PRIORS:
        chosen = {"prior": {"kind": kind}}
        for path, field in fields(validate(PriorRunConfig, copy.deepcopy(chosen))):
            if path.startswith("prior."):
                yield pytest.param(PriorRunConfig, chosen, path, field, id=f"{kind}.{path}")


CASES = list(cases())


def outcome(kind: type[Section], tree: dict[str, Any]) -> Any:
    """The settings, or what another setting has against the value."""
    try:
        return validate(kind, copy.deepcopy(tree))
    except ConfigError as error:
        return str(error)


def with_setting(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    *parents, last = path.split(".")
    branch = tree
    for part in parents:
        branch = branch.setdefault(part, {})
    branch[last] = value
    return tree


@pytest.mark.parametrize(("kind", "chosen", "path", "field"), CASES)
def test_every_value_as_people_type_it(
    kind: type[Section], chosen: dict[str, Any], path: str, field: FieldInfo
) -> None:
    examples = [(name, [name]) for name in NAMES[path]()] if path in NAMES else typed(field.annotation, field.metadata)
    assert examples
    for value, words in examples:
        if path == "model.init_from" and kind is RunConfig:
            expected = outcome(kind, {"model": {"preset": None if value else "digits", "init_from": value}})
        else:
            expected = outcome(kind, with_setting(chosen, path, value))
        if isinstance(expected, str):  # refused for another setting's sake, never for its type
            assert ": got " not in expected, (value, expected)
        else:
            default = flatten(outcome(kind, chosen).model_dump()) | {path: value}
            assert flatten(expected.model_dump())[path] == default[path]
        forms = [[f"--{path}", *words]] + ([[f"--{path}={words[0]}", *words[1:]]] if words else [])
        for argv in forms:
            if not isinstance(expected, str):
                program = {"RunConfig": "train", "PriorRunConfig": "train-prior"}.get(kind.__name__)
                if program is not None:  # what is right is never refused early
                    check_names(split_options(argv), settings_of_program(program), PROGRAMS[program].kinds)
            tree = copy.deepcopy(chosen)
            if path == "model.init_from" and kind is RunConfig:
                tree = {"model": {"preset": None if value else "digits"}}
            try:
                got: Any = override(kind, tree, split_options(argv))
            except ConfigError as error:
                got = str(error)
            assert got == expected, argv
            if not isinstance(got, str):
                found = flatten(got.model_dump())[path]
                assert type(found) is type(flatten(expected.model_dump())[path])


@pytest.mark.parametrize(("kind", "chosen", "path", "field"), CASES)
def test_every_choice_as_people_write_it_in_a_recipe(
    kind: type[Section], chosen: dict[str, Any], path: str, field: FieldInfo
) -> None:
    """Without quotes, where YAML 1.1 reads `no` and `on` as booleans, and with them."""
    literals = [arm for arm in (field.annotation, *get_args(field.annotation)) if get_origin(arm) is Literal]
    for choice in [choice for literal in literals for choice in get_args(literal)]:
        expected = outcome(kind, with_setting(chosen, path, choice))
        for text in (f"{choice}", f'"{choice}"'):
            assert outcome(kind, with_setting(chosen, path, yaml.safe_load(text))) == expected


def test_what_no_choice_spells_stays_an_error() -> None:
    for word in ("2", "one", "nothing", "1.5", ""):
        with pytest.raises(ConfigError, match=r"loss\.perceptual: got .*; input should be 'none'"):
            override(RunConfig, {}, {"loss.perceptual": word})


def test_every_choice_of_every_command_is_of_the_type_that_is_compared() -> None:
    """Argparse compares what `type` made of a word: a choice of another type can never be given."""
    from latent_ae.cli import datasets, evaluate, export, files, inspection, serve, space

    commands = argparse.ArgumentParser()
    places = commands.add_subparsers()
    for room in (evaluate, files, inspection, space, export, datasets):
        room.add_commands(places)
    checked = 0
    parsers = [commands, serve.parser()]
    while parsers:
        for action in parsers.pop()._actions:  # argparse lists a parser's options nowhere else
            if isinstance(action, argparse._SubParsersAction):
                parsers += set(action.choices.values())
            elif action.choices is not None:
                convert = action.type if callable(action.type) else str
                assert [convert(str(choice)) for choice in action.choices] == list(action.choices), action.dest
                checked += 1
    assert checked >= 6
