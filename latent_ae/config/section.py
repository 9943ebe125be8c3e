"""What every section of a config is, and what reads and compares them."""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from latent_ae.errors import UserError

S = TypeVar("S", bound="Section")
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]


Size = tuple[int, int]
"""height, width in pixels"""
SMALLEST_SIDE_PIXELS = 8


def size_of(setting: int | Size) -> Size:
    """The size that the side of a square, or a height and a width, says."""
    return (setting, setting) if isinstance(setting, int) else setting


def sides(name: str) -> BeforeValidator:
    """Reads the setting `name` as the side of a square, or as a height and a width in a list."""

    def read(value: object) -> object:
        given = list(value) if isinstance(value, list | tuple) else [value]
        found = [int(str(side)) for side in given if str(side).isdecimal()]
        if len(found) != len(given) or len(found) not in (1, 2) or min(found) < SMALLEST_SIDE_PIXELS:
            raise ValueError(
                f"{name} takes the side of a square, or height and width, of at least {SMALLEST_SIDE_PIXELS} pixels, "
                f"got {' '.join(map(str, given))}"
            )
        return found[0] if len(found) == 1 else tuple(found)

    return BeforeValidator(lambda value: None if value is None else read(value))


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range or without effect; the message is one line."""


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _choice_by_its_text(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return _choice(cls.model_fields[info.field_name].annotation, value)


_YAML_BOOLEANS = {True: ("true", "yes", "on", "y"), False: ("false", "no", "off", "n")}
"""words that YAML 1.1 reads as booleans"""


def _choice(annotation: Any, value: Any) -> Any:
    """The choice of a Literal that a text or a YAML boolean spells; any other value as it is.

    Pydantic turns text into numbers and booleans by itself, except where a Literal asks for one of them.
    """
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Literal:
            return next((choice for choice in arguments if _spells(value, choice)), value)
        case origin if origin is tuple and isinstance(value, list | tuple):
            kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
            return [_choice(kind, part) for kind, part in zip(kinds, value, strict=False)] + list(value[len(kinds) :])
        case origin if origin in (Union, UnionType):
            choices = [_choice(arm, value) for arm in arguments]
            return next((choice for choice in choices if choice is not value), value)
        case origin if origin is Annotated:
            return _choice(arguments[0], value)
    return value


def _spells(value: object, choice: object) -> bool:
    if isinstance(value, bool):
        return isinstance(choice, str) and choice in _YAML_BOOLEANS[value]
    return isinstance(value, str) and not isinstance(choice, str) and value.lower() == str(choice).lower()


def validate(kind: type[S], tree: dict[str, object]) -> S:
    """Check a nested dict of settings. Raises ConfigError with every violation on one line."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_violation(details) for details in error.errors())) from None


def load_yaml(path: Path) -> dict[str, object]:
    """The settings in a YAML file. Raises ConfigError if it is not readable or not a mapping."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"the config {path} must be a mapping of settings, got {type(tree).__name__}")
    return tree


def to_yaml(config: Section) -> str:
    """The resolved settings as YAML that `load_yaml` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differences(old: Section, new: Section) -> list[str]:
    """Each setting that differs, as "path: old -> new", with None for one that the kind chosen does not have."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    pairs = {path: (before.get(path), after.get(path)) for path in before | after}
    return [f"{path}: {one} -> {other}" for path, (one, other) in pairs.items() if one != other]


def flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings by their dotted path."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _violation(details: object) -> str:
    assert isinstance(details, dict)
    path = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "extra_forbidden":
            return f"unknown setting {path}"
        case "value_error":
            return str(details["ctx"]["error"])
        case _:
            return f"{path}: got {details['input']!r}; {details['msg'][0].lower()}{details['msg'][1:]}"
