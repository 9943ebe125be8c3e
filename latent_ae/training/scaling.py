"""How the config of a result describes the scale of its latents: as its source does, or as measured.

A frozen encoder gives the latents of the source, and diffusion models made for those expect the source's scale. A
trained encoder gives other latents, and nothing that the source says of its own is true of them.
"""

import inspect
from typing import Any

from latent_ae.evaluation.metrics.latents import LatentStatistics
from latent_ae.models import Autoencoder
from latent_ae.models.loading import states_scaling
from latent_ae.models.parts import encoder_learns
from latent_ae.training.settings import RunConfig

SCALING_KEYS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""config keys by which diffusers' pipelines scale latents"""


def keeps_scaling(config: RunConfig) -> bool:
    """Whether the result has the latents of `model.init_from`, and that states their scale."""
    return _keeps_latents(config) and states_scaling(str(config.model.init_from))


def record_scaling(model: Autoencoder, statistics: LatentStatistics, config: RunConfig) -> None:
    """Write the scale of the latents into the model's config, in place, unless it is the source's.

    Measured: scaling_factor and, where the class has one, shift_factor. Means and standard deviations by channel of the
    old latents go, and `force_upcast` is the class's default again, as fp16 was judged with other weights.
    """
    if keeps_scaling(config):
        return
    scaling = statistics.scaling()
    given: dict[str, Any] = scaling._asdict() | {"latents_mean": None, "latents_std": None}
    if encoder_learns(config.model.trained):
        given["force_upcast"] = inspect.signature(type(model).__init__).parameters["force_upcast"].default
    model.register_to_config(**{key: value for key, value in given.items() if key in model.config})


def stated_scaling(model: Autoencoder) -> dict[str, Any]:
    """What the model's config says of the scale of its latents; keys by channel only where they have values."""
    stated = {key: model.config[key] for key in SCALING_KEYS if key in model.config}
    return {key: value for key, value in stated.items() if value is not None or not key.startswith("latents_")}


def unstated_scaling(config: RunConfig) -> str | None:
    """A warning for a run that keeps the latents of a source which does not state their scale."""
    if not _keeps_latents(config) or keeps_scaling(config):
        return None
    source = config.model.init_from
    return (
        f"{source} does not state the scale of its latents, which stay the same as its encoder is frozen: the result "
        "states one measured on these images, not the one that diffusion models made for it expect. For those, give a "
        f"folder as model.init_from: `latent-ae import {source} -o DIR --scaling-factor X` makes one of a file (Stable "
        "Diffusion 1: 0.18215, XL: 0.13025)"
    )


def _keeps_latents(config: RunConfig) -> bool:
    model = config.model
    return model.init_from is not None and model.latent_channels is None and not encoder_learns(model.trained)
