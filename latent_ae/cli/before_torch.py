"""What can be said of a program's command line before torch is imported: its help, and mistakes of names and paths.

Everything else is checked by the settings' own classes, which need torch.
"""

import difflib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from latent_ae.cli.output import complain
from latent_ae.config import ConfigError, flatten, load_yaml
from latent_ae.config.command_line import split_options
from latent_ae.config.implied import with_source
from latent_ae.config.listing import Setting, settings_of_program, unknown_setting
from latent_ae.config.program_help import print_help
from latent_ae.config.programs import PROGRAMS, SWEEP, TRAIN, Program
from latent_ae.config.recipes import DEFAULT_RECIPE, find_recipe
from latent_ae.config.varied import split_varied
from latent_ae.errors import UserError
from latent_ae.io.model_place import find_model
from latent_ae.io.paths import near_names

_MODELS = ("model", "model.init_from")
_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0", "y", "n", "t", "f")
"""words for what is true or not, which some choices are read from as well"""
_RESULTS = ("model", "prior", "pipeline")
_RESUMED = ("auto", "never", "changed-data")


def answer_early(name: str, argv: Sequence[str], folder: Path, *, script: bool = False) -> int | None:
    """The exit status if the words of a program ask for help or have a mistake, which is printed; None to go on.

    Args:
        name: of PROGRAMS.
        argv: its words.
        folder: of its script, where recipes are.
        script: whether it was called by its script.
    """
    program = PROGRAMS[name]
    try:
        if _check(program, list(argv), folder / "configs", f"python train/{program.script}" if script else ""):
            return 0
    except UserError as error:
        complain(str(error))
        return 2
    return None


def leave_early(name: str, script: str) -> None:
    """End the process of a script of train/ that needs no torch for its answer."""
    status = answer_early(name, sys.argv[1:], Path(script).resolve().parent, script=True)
    if status is not None:
        sys.exit(status)


def _check(program: Program, argv: list[str], recipes: Path, called: str) -> bool:
    """Whether help was asked for, and printed. Raises UserError for a mistake."""
    owner = program.settings_of or program.name
    takes_recipe = owner == TRAIN.name
    varied, argv = split_varied(argv) if program is SWEEP else ({}, argv)
    if argv and takes_recipe and not argv[0].startswith("-"):
        _refuse_word(argv[0], recipes)
    options = split_options(argv)
    which = options.pop("help", None)
    tree = load_yaml(file := find_recipe(options.pop("config", DEFAULT_RECIPE), recipes)) if takes_recipe else {}
    recipe = flatten(with_source(tree, options))
    kinds = {key: options.get(key, recipe.get(key, default)) for key, default in program.kinds.items()}
    recipe = {"name": file.stem if takes_recipe else kinds.get("prior.kind"), "output_dir": "runs", **recipe}
    settings = settings_of_program(owner)
    if which is not None:
        of_kind = [setting for setting in settings if setting.is_of(kinds)]
        others = [setting for setting in settings if setting not in of_kind]
        values, folder = {**recipe, **kinds, **options}, recipes if takes_recipe else None
        print_help(program, of_kind, others, which=which, recipe=values, recipes=folder, called=called)
        return True
    beside = {words.split()[0].removeprefix("--") for words in program.options}
    check_names({name: value for name, value in options.items() if name not in beside}, settings, program.kinds)
    program.require({**options, "vary": varied or None})
    for field, words in varied.items():
        for word in words:
            check_names({field: word}, settings, program.kinds)
    output, name = (str(options.get(path, recipe[path])) for path in ("output_dir", "name"))
    if not any(Path(output, name, result).is_dir() for result in _RESULTS):  # a finished run needs none of them
        check_paths(options, kinds)
    return False


def _refuse_word(word: str, recipes: Path) -> None:
    hint = "settings are given as --FIELD VALUE"
    if (recipes / f"{word}.yaml").is_file() or word.endswith((".yaml", ".yml")):
        hint = f"did you mean --config {word}?"
    elif Path(word).exists():
        hint = f"did you mean --data.path {word}?"
    raise ConfigError(f"unexpected argument {word!r}: {hint}")


def check_names(options: Mapping[str, object], settings: Sequence[Setting], kinds: Collection[str]) -> None:
    """Raise ConfigError for a setting, a choice or a number that there is not; `kinds` choose which there are."""
    by_path: dict[str, list[Setting]] = {}
    for setting in settings:
        by_path.setdefault(setting.path, []).append(setting)
    for path, value in options.items():
        if path not in by_path:
            raise ConfigError(unknown_setting(path, by_path))
        if path in kinds:
            (setting,) = by_path[path]
            if value not in (names := setting.values.split("|")):
                raise ConfigError(f"{path}: got {value!r}, expected one of {', '.join(names)}")
        elif isinstance(value, str):
            _check_word(path, value, {setting.values for setting in by_path[path]})


def _check_word(path: str, value: str, values: set[str]) -> None:
    """Raise ConfigError where a number or a choice alone is expected, the same in all kinds, and another is given."""
    expected = values.pop()
    choices = expected.split("|")
    if values:
        return
    if expected in ("INT", "NUMBER"):
        with suppress(ValueError, OverflowError):
            if expected == "NUMBER" or float(value) == int(float(value)):
                float(value)
                return
        raise ConfigError(f"{path}: got {value!r}, expected {'a number' if expected == 'NUMBER' else 'a whole number'}")
    if len(choices) > 1 and expected.islower() and value.lower() not in (*choices, *_BOOLEANS):
        close = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{path}: got {value!r}, expected {', '.join(choices)}{hint}")


def check_paths(options: Mapping[str, object], kinds: Mapping[str, object]) -> None:
    """Raise UserError for a path where nothing is."""
    for name in _MODELS:
        if isinstance(model := options.get(name), str):
            find_model(model)
    path = options.get("data.path")
    if isinstance(path, str) and kinds.get("data.source") == "folder" and not re.search(r"[*?\[{]|://", path):
        _refuse_missing("data.path", path)
    if isinstance(latents := options.get("latents"), str):
        _refuse_missing("latents", latents)
    if (checkpoint := options.get("resume", "auto")) not in _RESUMED:
        _refuse_missing("resume", str(checkpoint))


def _refuse_missing(name: str, path: str) -> None:
    if Path(path).expanduser().exists():
        return
    near = near_names(Path(path).expanduser())
    hint = f"; did you mean {' or '.join(map(str, near))}?" if near else f" (from {Path.cwd()})"
    if name == "data.path" and re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not Path(path).parent.exists():
        hint += "; a data set of the hub needs --data.source hub"
    raise ConfigError(f"--{name} {path} does not exist{hint}")
