"""The models of a server: their ids, what is known of them, and which one a request means."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latent_ae.inference import Codec
from latent_ae.models.autoencoder import class_name
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.naming import GENERAL
from latent_ae.models.run_folders import located
from latent_ae.models.tensor_file import SUFFIXES
from latent_ae.service.errors import UnknownModel, WrongModel
from latent_ae.service.results import ModelInfo

SHOWN_DIGITS = 16
"""of an identity"""


def model_ids(names: Sequence[str]) -> list[str]:
    """An id for each model name: the last part of its path that says something, without its suffix, made unique.

    runs/kl-digits/model => kl-digits, stabilityai/sd-vae-ft-mse => sd-vae-ft-mse, vae.safetensors => vae
    """
    ids: list[str] = []
    for name in names:
        path = Path(name)
        said = [part for part in path.parts if part not in (*GENERAL, path.anchor, "..")]
        last = said[-1] if said else path.name
        if path.suffix.lower() in SUFFIXES:
            last = path.stem
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"
        number, free = 2, base
        while free in ids:
            free, number = f"{base}-{number}", number + 1
        ids.append(free)
    return ids


def describe(model_id: str, codec: Codec, prior: HierarchicalPrior | None = None) -> ModelInfo:
    """What is known of a model, from its config and the files beside it."""
    folder, config = located(Path(codec.name)), codec.model.config
    said = "sample_size" not in config.get("_use_default_values", ())
    native = config.get("sample_size") if said else None
    return ModelInfo(
        id=model_id,
        kind=class_name(codec.model),
        encoder=codec.identity,
        channels=codec.channels,
        factor=codec.factor,
        latent_channels=codec.latent_channels,
        codebook_size=codec.codebook_size,
        parameters=sum(parameter.numel() for parameter in codec.model.parameters()),
        scaling_factor=codec.scaling_factor,
        shift_factor=codec.shift_factor,
        encoder_precision=codec.precision.encoder.precision,
        decoder_precision=codec.precision.decoder.precision,
        device=str(codec.model.device),
        card=_card(folder / "README.md"),
        stats=_stats(folder / "latent_stats.json", codec.identity),
        native_size=native if isinstance(native, int) else None,
        learned_prior=None if prior is None else prior.latent_shape[1] * codec.factor,
    )


def choose(infos: Mapping[str, ModelInfo], model: str | None) -> str:
    """The id that is meant; the first if none is given. Raises UnknownModel with the ids that there are."""
    if model is None:
        return next(iter(infos))
    if not isinstance(model, str) or model not in infos:
        raise UnknownModel(f"there is no model {str(model)[:80]!r}; this server has {', '.join(infos)}")
    return model


def choose_for_latents(infos: Mapping[str, ModelInfo], model: str | None, encoder: str) -> str:
    """The model that decodes latents of `encoder`. Raises WrongModel with the identities, UnknownModel."""
    if model is not None and infos[choose(infos, model)].encoder != encoder:
        raise WrongModel(
            f"these latents are of the encoder {encoder[:SHOWN_DIGITS]}, and the encoder of {model} is "
            f"{infos[model].encoder[:SHOWN_DIGITS]}: {_fitting(infos, encoder)}"
        )
    found = model or next((name for name, info in infos.items() if info.encoder == encoder), None)
    if found is None:
        raise WrongModel(
            f"these latents are of the encoder {encoder[:SHOWN_DIGITS]}, which no model of this server has: "
            f"{_fitting(infos, encoder)}"
        )
    return found


def way_note(info: ModelInfo) -> str:
    """What to know of the pictures on the way between two images."""
    if info.codebook_size is None:
        return ""
    return "Between two codes there is nothing: on the way each position jumps from one code to another."


def _fitting(infos: Mapping[str, ModelInfo], encoder: str) -> str:
    fitting = [name for name, info in infos.items() if info.encoder == encoder]
    if fitting:
        return f"decode them with {' or '.join(fitting)}"
    models = ", ".join(f"{name} ({info.encoder[:SHOWN_DIGITS]})" for name, info in infos.items())
    return f"there are {models}; encode the images again with one of them, or name one with foreign=true if it fits"


def _card(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return re.sub(r"\A---\n.*?^---\n+", "", text, flags=re.DOTALL | re.MULTILINE)


def _stats(file: Path, identity: str) -> dict[str, Any] | None:
    """What was measured of this very encoder, None if there is nothing."""
    try:
        stats = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stats if isinstance(stats, dict) and stats.get("encoder_identity") == identity else None
