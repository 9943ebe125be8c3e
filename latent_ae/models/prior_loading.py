"""A learned prior of any kind from its folder."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from diffusers import ModelMixin

from latent_ae.errors import one_line
from latent_ae.io.model_place import result_in
from latent_ae.models import token_prior
from latent_ae.models.errors import ModelError
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.learned_prior import LearnedPrior
from latent_ae.models.loading import load_checked
from latent_ae.models.mixture_prior import GaussianMixturePrior


def _of_diffusers(kind: type[ModelMixin], folder: str) -> LearnedPrior:
    prior: LearnedPrior = load_checked(kind, folder, place=folder)
    return prior


LOADERS: dict[str, Callable[[str], LearnedPrior]] = {
    **{kind.__name__: partial(_of_diffusers, kind) for kind in (HierarchicalPrior, GaussianMixturePrior)},
    token_prior.CLASS: token_prior.load_token_prior,
}
"""by the class that config.json names, in diffusers' way or in transformers'"""


def load_prior(name: str) -> LearnedPrior:
    """The prior in a folder that train/train_prior.py wrote, or in that of its run, in float32 and evaluation mode.

    Raises ModelError if there is none or it is not whole.
    """
    folder = result_in(Path(name), "prior")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"cannot load a prior from {folder}: it has no config.json; train/train_prior.py makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a prior from {folder}: {one_line(error)}") from error
    named = config if isinstance(config, dict) else {}
    found = named.get("_class_name") or next(iter(named.get("architectures") or ()), None)
    if found not in LOADERS:
        raise ModelError(f"{folder} holds a model of class {found}, expected a prior: {' or '.join(LOADERS)}")
    return LOADERS[found](str(folder))
