"""Runs of one recipe that differ in the settings that a sweep varies, and what was measured of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from latent_ae.config import ConfigError, flatten
from latent_ae.config.command_line import split_options
from latent_ae.config.recipes import DEFAULT_RECIPE, find_recipe
from latent_ae.config.varied import split_varied
from latent_ae.evaluation.rate_distortion import Row
from latent_ae.evaluation.report import EvaluationReport
from latent_ae.training.settings import parse_run


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep."""

    name: str
    """its folder under the sweep's, named by the values that are its own: loss.beta=1e-6,seed=0"""
    values: Mapping[str, Any]
    """of the varied fields, as the settings read them"""
    argv: Sequence[str]
    """the words for train/train.py"""
    run_dir: Path

    def measured(self) -> Row:
        """What the finished run's evaluation.json says."""
        text = (self.run_dir / "evaluation.json").read_text(encoding="utf-8")
        return Row.of(self.name, self.values, EvaluationReport.model_validate_json(text))


@dataclass(frozen=True)
class Sweep:
    """The runs of one command, the last field varying fastest."""

    folder: Path
    varied: Sequence[str]
    runs: Sequence[SweptRun]


def parse_sweep(argv: Sequence[str], recipes: Path) -> Sweep:
    """A sweep from its command line, each of its runs checked as train/train.py would.

    Args:
        argv: without the program's name.
        recipes: folder of the YAML files that `--config NAME` means.

    Raises ConfigError with one line for anything unknown or wrong in any of the runs.
    """
    varied, rest = split_varied(argv)
    options = split_options(rest)
    name = options.get("name", f"{find_recipe(options.get('config', DEFAULT_RECIPE), recipes).stem}-sweep")
    runs, folder = list[SweptRun](), Path()
    for values in product(*varied.values()):
        given = [f"{field}={value}" for field, value in zip(varied, values, strict=True)]
        run = re.sub(r"[^\w.,=+-]", "_", ",".join(given))
        words = [*rest, *(f"--{each}" for each in given)]
        try:
            config = parse_run(words, recipes).config
        except ConfigError as error:
            raise ConfigError(f"{', '.join(given)}: {error}") from None
        folder = Path(config.output_dir) / str(name)
        if any(run == other.name for other in runs):
            raise ConfigError(f"two runs of the sweep would be written to {folder / run}: the values are too alike")
        settings = flatten(config.model_dump(mode="json"))
        words += ["--output_dir", str(folder), "--name", run]
        runs.append(SweptRun(run, {field: settings[field] for field in varied}, words, folder / run))
    return Sweep(folder, list(varied), runs)
