"""Sections that have a class for each kind: a bottleneck, a data source, the loss that goes with a bottleneck."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BeforeValidator, ValidationInfo
from pydantic.fields import FieldInfo

from latent_ae.config.section import Section


@dataclass(frozen=True)
class Kinds:
    """Reads a section whose class one setting chooses: `Annotated[SerializeAsAny[Base], BeforeValidator(Kinds(...))]`.

    Settings that only other kinds have are refused. Those that are null or have the other kind's default are dropped:
    configs were once saved with the settings of all kinds.
    """

    section: str
    """name of the section"""
    key: str
    """dotted path of the setting that chooses, in this section or in one before it"""
    default: str
    """what it chooses where it is not given"""
    table: Callable[[], Mapping[str, type[Section]]]
    """the class of each kind"""

    def __call__(self, value: Any, info: ValidationInfo) -> Any:
        """The settings of one kind from a mapping. Raises ValueError, ValidationError."""
        chooser, _, name = self.key.rpartition(".")
        table = self.table()
        if chooser != self.section:
            if chooser not in info.data:
                return {}  # the choice is wrong itself, which says enough
            kind = getattr(info.data[chooser], name)
            value = value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        elif isinstance(value, Mapping):
            kind = value.get(name, self.default)
        else:
            return value
        if not isinstance(value, Mapping):
            return value
        if not isinstance(kind, str) or kind not in table:
            raise ValueError(f"{self.key}: got {kind!r}, expected one of {', '.join(table)}")
        chosen = table[kind]
        self._refuse_what_others_have(kind, value, table)
        known = {name for entry in table.values() for name in entry.model_fields} - set(chosen.model_fields)
        given = {name: item for name, item in value.items() if name not in known}
        required = {name: field.description for name, field in chosen.model_fields.items() if field.is_required()}
        if missing := [f"{self.section}.{name}, {text}" for name, text in required.items() if given.get(name) is None]:
            raise ValueError(f"{self.key} {kind} needs {' and '.join(missing)}")
        return chosen.model_validate(given)

    def _refuse_what_others_have(self, kind: str, given: Mapping[str, Any], table: Mapping[str, type[Section]]) -> None:
        """Raises ValueError for settings that only other kinds have, unless they say nothing."""
        idle = {}
        for name, value in given.items():
            owners = {each for each, entry in table.items() if name in entry.model_fields}
            defaults = [_plain(table[each].model_fields[name].default) for each in owners]
            if owners and kind not in owners and _plain(value) not in (None, *defaults):
                idle[name] = owners
        if idle:
            names = ", ".join(f"{self.section}.{name}" for name in idle)
            having = " or ".join(each for each in table if all(each in owners for owners in idle.values()))
            remedy = f", or give {self.key} {having}" if having else ""
            raise ValueError(f"{names} has no effect with {self.key} {kind}: leave it out{remedy}")


def _plain(value: Any) -> Any:
    """A value as the words of a command line spell it, or as it is."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    with suppress(yaml.YAMLError):
        return yaml.safe_load(value) if isinstance(value, str) else value
    return value


def settings_of(section: type[Section], prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting of a section by its dotted path, those of all kinds included."""
    found: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        kinds = _kinds_of(field)
        classes: list[Any] = [field.annotation] if kinds is None else list(kinds.table().values())
        if isinstance(classes[0], type) and issubclass(classes[0], Section):
            for each in classes:
                found |= settings_of(each, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def choices_of(section: type[Section]) -> dict[str, list[str]]:
    """The dotted path of each setting that chooses the class of a section, with the names it may have."""
    marks = (_kinds_of(field) for field in section.model_fields.values())
    return {kinds.key: list(kinds.table()) for kinds in marks if kinds is not None}


def _kinds_of(field: FieldInfo) -> Kinds | None:
    marks = (mark.func for mark in field.metadata if isinstance(mark, BeforeValidator))
    return next((mark for mark in marks if isinstance(mark, Kinds)), None)
