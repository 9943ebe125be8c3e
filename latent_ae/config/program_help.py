"""The help of programs with settings: what most people need, or every setting."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from latent_ae.config.listing import Setting
from latent_ae.config.programs import Program

_WIDEST = 120


def print_help(
    program: Program,
    settings: Sequence[Setting],
    others: Sequence[Setting] = (),
    *,
    which: object,
    recipe: Mapping[str, object],
    recipes: Path | None = None,
    called: str = "",
) -> None:
    """Print the help that `--help WHICH` asks for.

    Args:
        program: whose help it is.
        settings: those that it has with what was chosen.
        others: those that it has with other choices.
        which: "true" of --help alone for the usual settings, all, or the beginning of settings' names.
        recipe: values that stand in for the defaults, by their path.
        recipes: the folder of the recipes that it takes.
        called: how the program was called, if not as a command of latent-ae.
    """
    if which == "true":
        lines = list(_usual(program, [*settings, *others], recipe, recipes, called or f"latent-ae {program.name}"))
    else:
        chosen = [each for each in settings if which == "all" or each.path.startswith(str(which))]
        lines = [*described(chosen, recipe), "", *_choosers(settings)]
        if not chosen:
            lines = [f"no setting begins with {which}; --help all lists every setting"]
    sys.stdout.write("\n".join(lines) + "\n")


def described(settings: Iterable[Setting], recipe: Mapping[str, object]) -> list[str]:
    """Each setting with what it may be, its value and its meaning."""
    lines: list[str] = []
    for setting in settings:
        value = recipe.get(setting.path, setting.default)
        is_free = value is not None or "null" in setting.values
        lines.append(f"  --{setting.path} {setting.values}" + (f"  (default: {_shown(value)})" if is_free else ""))
        lines += _folded(setting.help, indent=8)
    return lines


def _usual(
    program: Program, settings: Sequence[Setting], recipe: Mapping[str, object], recipes: Path | None, called: str
) -> Iterator[str]:
    """Recipes, examples, and the settings that most people give."""
    yield f"usage: {called} {'' if recipes is None else '[--config RECIPE] '}[--FIELD VALUE ...]"
    yield from ("", *_folded(program.title))
    if recipes is not None:
        yield from ("", "recipes (--config RECIPE --help shows the values of one):")
        yield from _table({file.stem: _summary(file) for file in sorted(recipes.glob("*.yaml"))})
    yield from ("", "examples:")
    for words, what in program.examples.items():
        yield from (f"  {called} {words}".rstrip(), f"        {what}")
    yield from ("", "options:")
    yield from _table({**program.options, "--help all": "every setting; --help SECTION: those of one section"})
    by_path = {setting.path: setting for setting in reversed(settings)}
    yield from ("", "the settings that most people give:")
    yield from described([by_path[path] for path in program.usual if path in by_path], recipe)


def _choosers(settings: Iterable[Setting]) -> list[str]:
    """Which settings choose others, as these are not listed for all of their values."""
    keys = sorted({f"--{key}" for setting in settings for key in setting.of})
    return _folded(f"{' and '.join(keys)} choose further settings: give them beside --help all.") if keys else []


def _summary(recipe: Path) -> str:
    """The first line of a recipe, a comment that says what it is."""
    with recipe.open(encoding="utf-8") as lines:
        line = lines.readline()
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    """Names beside what they are, each in one line as wide as the terminal."""
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        yield f"  {name:{width}}  {textwrap.shorten(text, _columns() - width - 4, placeholder=' ...')}"


def _folded(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, _columns(), initial_indent=" " * indent, subsequent_indent=" " * indent)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _columns() -> int:
    return min(_WIDEST, shutil.get_terminal_size((100, 24)).columns)
