"""The way back: a single file to a model directory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open

from latent_ae.errors import one_line
from latent_ae.export.errors import ExportError
from latent_ae.export.ldm_file import CONFIG, sidecar
from latent_ae.export.source import ModelSource
from latent_ae.models import Autoencoder, load_autoencoder
from latent_ae.models.autoencoder import class_name
from latent_ae.models.identity import encoder_identity


@dataclass(frozen=True)
class Unsaid:
    """What tensors do not say; None: what the file's metadata says, or 32 groups, a scale of 1 and no shift."""

    norm_num_groups: int | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None

    def given(self) -> dict[str, int | float]:
        """Those that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def read_single_file(path: Path, unsaid: Unsaid) -> ModelSource:
    """The model of a single file, with the config of its metadata where it has one.

    Raises ModelError for a file that cannot be used, and ExportError for metadata that contradict its tensors or leave
    no effect to what is given.
    """
    config = _metadata_config(path)
    if config is None:
        model = load_autoencoder(str(path), norm_num_groups=unsaid.norm_num_groups)
        scaling = {name: value for name, value in unsaid.given().items() if name != "norm_num_groups"}
        if idle := [name for name in scaling if name not in model.config]:
            raise ExportError(f"{idle[0]} has no effect on the {class_name(model)} of {path}: leave it out")
        model.register_to_config(**scaling)
    elif idle := list(unsaid.given()):
        raise ExportError(f"{path} says its {idle[0]} by itself: leave it out")
    else:
        model = _configured(path, config)
    folder = sidecar(path)
    return ModelSource(str(path), model, encoder_identity(model), folder if folder.is_dir() else None)


def _metadata_config(path: Path) -> dict[str, Any] | None:
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        config = json.loads(metadata[CONFIG]) if CONFIG in metadata else None
    except (SafetensorError, OSError):
        return None  # the loader says what is wrong with it
    except ValueError as error:
        raise ExportError(f"the metadata {CONFIG} of {path} is no JSON: {one_line(error)}") from error
    if config is not None and not isinstance(config, dict):
        raise ExportError(f"the metadata {CONFIG} of {path} is no object: got {type(config).__name__}")
    return config


def _configured(path: Path, config: dict[str, Any]) -> Autoencoder:
    groups = config.get("norm_num_groups")
    if config.get("_class_name") != "AutoencoderKL" or not isinstance(groups, int):
        raise ExportError(f"the metadata {CONFIG} of {path} is none of an AutoencoderKL")
    weights = load_autoencoder(str(path), norm_num_groups=groups).state_dict()
    try:
        with torch.device("meta"):
            model = AutoencoderKL.from_config(config)
        model.load_state_dict(weights, assign=True)
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise ExportError(f"the metadata {CONFIG} of {path} contradict its tensors: {one_line(error)}") from error
    return model.eval()
