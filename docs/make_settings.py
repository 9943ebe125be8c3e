"""Make latent_ae/config/settings.json from the classes of settings: `python docs/make_settings.py`."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace

from latent_ae.config.kinds import choices_of
from latent_ae.config.listing import FILE, Setting, listed, merged
from latent_ae.config.section import ConfigError, Section, validate
from latent_ae.evaluation.images import MeasureConfig
from latent_ae.latent_dataset.settings import EncodeConfig
from latent_ae.priors import PRIORS
from latent_ae.priors.settings import PriorRunConfig
from latent_ae.training.settings import NAMES, RunConfig, stand_ins

CLASSES: Mapping[str, type[Section]] = {
    "train": RunConfig,
    "encode-dataset": EncodeConfig,
    "train-prior": PriorRunConfig,
    "evaluate": MeasureConfig,
}
_CODES = 2
"""a codebook that stands in where its size is required"""


def contents() -> str:
    """The whole file."""
    lists = {program: [asdict(each) for each in merged(_variants(kind))] for program, kind in CLASSES.items()}
    return json.dumps(lists, indent=1) + "\n"


def _variants(kind: type[Section]) -> dict[str, dict[str, list[Setting]]]:
    """The settings with each kind, by the setting that chooses it."""
    found: dict[str, dict[str, list[Setting]]] = {}
    for key, names in choices_of(kind).items():
        found[key] = {}
        for name in names:
            with suppress(ConfigError):  # of a source that the program does not take
                found[key][name] = list(_settings(kind, *key.split("."), name))
    return found


def _settings(kind: type[Section], section: str, choice: str, name: str) -> Iterator[Setting]:
    required = stand_ins(section, name)
    if section == "bottleneck" and name in ("vq", "ema_vq", "gumbel"):
        required["codebook_size"] = _CODES
    tree: dict[str, object] = {section: {choice: name, **required}}
    if section == "prior":
        tree["train"] = dict(PRIORS[name].TRAIN)
    for setting in listed(validate(kind, tree), NAMES):
        stands_in = setting.path.removeprefix(f"{section}.") in required
        yield replace(setting, default=None) if stands_in else setting


if __name__ == "__main__":
    FILE.write_text(contents(), encoding="utf-8")
