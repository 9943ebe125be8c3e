"""What a run leaves beside its model: its settings, and its checkpoints as models."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from latent_ae.config import load_yaml, validate
from latent_ae.errors import one_line
from latent_ae.io.model_place import CHECKPOINT_VALUES, RUN_SETTINGS, located
from latent_ae.models.autoencoder import CLASSES, Autoencoder
from latent_ae.models.errors import ModelError
from latent_ae.models.parts import encoder_learns
from latent_ae.models.settings import AutoencoderConfig

AUTOENCODER = "autoencoder"
"""entry of a checkpoint's values: the autoencoder's config.json"""
PIXEL_FORMAT = "pixel_format"
"""entry of a checkpoint's values: what the pixels mean, as JSON text; none for grey and RGB pictures"""
_TRAINED, _AVERAGE, _BEST = "weights.safetensors", "ema.safetensors", "best.safetensors"
_PREFIX = "autoencoder."
"""of the autoencoder's tensors among the trained ones"""


def run_settings(path: Path) -> dict[str, object] | None:
    """The settings of the run that made a model, from the config.yaml beside it; None if there is none.

    Raises ConfigError for a file that cannot be read.
    """
    path = located(path)
    folder = path if path.is_dir() else path.parent
    files = (place / RUN_SETTINGS for place in (folder, folder.parent))
    return next((load_yaml(file) for file in files if file.is_file()), None)


def source_of_scale(path: Path) -> str | None:
    """The source whose scale of latents holds for a checkpoint, as its encoder is frozen; None if there is none."""
    model = _settings(path).model
    return None if encoder_learns(model.trained) or model.latent_channels is not None else model.init_from


def checkpoint_pixel_format(path: Path) -> str | None:
    """What a checkpoint says of its pixels, as JSON; None for grey and RGB pictures. Raises ModelError."""
    folder = path if path.is_dir() else path.parent
    try:
        saved = json.loads((folder / CHECKPOINT_VALUES).read_text(encoding="utf-8")).get(PIXEL_FORMAT)
    except (OSError, ValueError) as error:
        raise ModelError(f"the checkpoint {folder} is damaged: {one_line(error)}") from error
    return None if saved is None else str(saved)


def load_from_checkpoint(path: Path) -> Autoencoder:
    """The autoencoder in a checkpoint, in float32 and evaluation mode, its latents without a scale unless it is known.

    `path` is its folder, for the weights that the run would export (the best so far or the averaged ones, if it keeps
    them), or one of its files of weights, for those. Raises ModelError if there is no autoencoder in it.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name not in (_TRAINED, _AVERAGE, _BEST):
        raise ModelError(f"{path} is part of a checkpoint and holds no model: give the folder, {folder}")
    files = [folder / name for name in (_BEST, _AVERAGE, _TRAINED)]
    file = next(each for each in files if each.is_file()) if path.is_dir() else path
    try:
        values = json.loads((folder / CHECKPOINT_VALUES).read_text(encoding="utf-8"))
        tensors = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"the checkpoint {folder} is damaged: {one_line(error)}") from error
    config = values.get(AUTOENCODER)
    if not isinstance(config, dict) or config.get("_class_name") not in CLASSES:
        raise ModelError(
            f"{folder} is a checkpoint without the config of an autoencoder, of a training on latents or of an earlier "
            "version: give the result of its run"
        )
    if file.name == _TRAINED:
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    return _folded(_built(folder, config, tensors), _settings(folder))


def _built(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Autoencoder:
    try:
        with torch.device("meta"):
            model: Autoencoder = CLASSES[config["_class_name"]].from_config(config)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise ModelError(f"the checkpoint {folder} contradicts its config: {one_line(error)}") from error
    return model.requires_grad_().eval()


def _folded(model: Autoencoder, settings: AutoencoderConfig) -> Autoencoder:
    """As the run would export it, apart from what it has yet to measure."""
    if encoder_learns(settings.model.trained):
        settings.bottleneck.build(model, settings.loss).fold(model)
        neutral = {"scaling_factor": 1.0, "shift_factor": 0.0, "latents_mean": None, "latents_std": None}
        model.register_to_config(**{key: value for key, value in neutral.items() if key in model.config})
    return model


def _settings(path: Path) -> AutoencoderConfig:
    settings = load_yaml((path if path.is_dir() else path.parent) / RUN_SETTINGS)
    return validate(AutoencoderConfig, {name: settings.get(name, {}) for name in AutoencoderConfig.model_fields})
