"""Recipes: YAML files of settings, by name or path."""

import difflib
from pathlib import Path

from latent_ae.config.section import ConfigError

DEFAULT_RECIPE = "kl-digits"


def find_recipe(name: object, recipes: Path) -> Path:
    """The file of a recipe's name in a folder of recipes, or at a path. Raises ConfigError with the names there are."""
    if not isinstance(name, str) or name == "true":
        raise ConfigError("--config needs one value")
    if (file := recipes / f"{name.removesuffix('.yaml')}.yaml").is_file():
        return file
    if (path := Path(name)).is_file():
        return path
    if (path / "config.yaml").is_file():
        raise ConfigError(f"--config: {name} is the folder of a run: give its settings, {path / 'config.yaml'}")
    known = sorted(path.stem for path in recipes.glob("*.yaml"))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? The" if close else "the"
    raise ConfigError(f"--config: there is neither a recipe nor a file {name!r}; {hint} recipes are {', '.join(known)}")
