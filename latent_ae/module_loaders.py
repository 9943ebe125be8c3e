"""Modules of other packages that are loaded in another way than Python's own, whoever imports them first."""

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_loaders: dict[str, type[SourceFileLoader]] = {}


def load_by(loaders: Mapping[str, type[SourceFileLoader]]) -> None:
    """Load modules by these loaders, by their full names; those that were imported before stay as they are."""
    _loaders.update(loaders)
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    """Finds the modules that have a loader here as Python does. No others."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _loaders or (spec := PathFinder.find_spec(name, path, target)) is None:
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _loaders[name](spec.loader.name, spec.loader.path)
        return spec
