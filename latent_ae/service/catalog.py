"""The models of a server: their ids, what is known of them, their learned priors, and which one a request means."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from latent_ae.evaluation.report import PRIOR_STD_RANGE
from latent_ae.inference import Codec
from latent_ae.io.model_place import WEIGHT_SUFFIXES, located
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models.autoencoder import class_name
from latent_ae.models.errors import ModelError
from latent_ae.models.learned_prior import DrawOptions, LearnedPrior
from latent_ae.models.naming import GENERAL
from latent_ae.models.prior_loading import load_prior
from latent_ae.service.errors import BadRequest, UnknownModel, WrongModel
from latent_ae.service.limits import require_choice, require_number, require_whole

Prior = Literal["normal", "learned"]
"""what images are drawn from: N(0, 1), or the codes evenly; or a prior that was learned of the model's latents"""

MAX_CODES = 2**31 - 1
"""more codes and classes than any prior has"""
_SHOWN_DIGITS = 16
"""of an encoder's identity"""
_TRAINED_ON = re.compile(r"trained on\s+`([^`\n]{1,80})`")
_CARD_PICTURE = re.compile(r"!\[[^\]]*\]\(([\w-][\w.-]*\.(?:png|jpe?g|webp))\)", re.IGNORECASE)
"""a picture in Markdown, by a name without a folder"""
_MAX_PICTURE_BYTES = 4 * 10**6
_MIN_NATS = 0.01
"""KL per latent value below which latents hardly depend on the image"""


@dataclass(frozen=True)
class ModelInfo:
    """A model of the server, for people and programs."""

    id: str
    kind: str
    """AutoencoderKL or VQModel"""
    encoder: str
    """identity, 64 hex digits"""
    channels: int
    """of the images"""
    pixel_format: PixelFormat
    """what their values mean"""
    factor: int
    latent_channels: int
    codebook_size: int | None
    parameters: int
    scaling_factor: float | None
    shift_factor: float | None
    encoder_precision: str
    decoder_precision: str
    device: str
    """cpu, or an accelerator as cuda:0"""
    card: str
    """Markdown of the model's README.md without its front matter, or ''"""
    stats: dict[str, Any] | None
    """latent_stats.json, None if there is none"""
    native_size: int | None
    """side in pixels of the images it was trained on, if its config says it"""
    trained_on: str = ""
    """the data's name in the card of a model that was trained here, or ''"""
    card_pictures: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """files beside the card that it shows, by the names in it"""
    learned_prior: int | None = None
    """side in pixels of what its learned prior draws, if it has one"""
    prior_classes: tuple[int, ...] = ()
    """labels that its learned prior can be asked for"""


def model_ids(names: Sequence[str]) -> list[str]:
    """A unique id for each model name: the last specific part of its path, without its suffix.

    runs/kl-digits/model => kl-digits, stabilityai/sd-vae-ft-mse => sd-vae-ft-mse, vae.safetensors => vae
    """
    ids: list[str] = []
    for name in names:
        path = Path(name)
        specific = [part for part in path.parts if part not in (*GENERAL, path.anchor, "..")]
        last = path.stem if path.suffix.lower() in WEIGHT_SUFFIXES else specific[-1] if specific else path.name
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"
        number, free = 2, base
        while free in ids:
            free, number = f"{base}-{number}", number + 1
        ids.append(free)
    return ids


def describe(model_id: str, codec: Codec, prior: LearnedPrior | None = None) -> ModelInfo:
    """What is known of a model, from its config and the files beside it."""
    folder, config = located(Path(codec.name)), codec.model.config
    native = None if "sample_size" in config.get("_use_default_values", ()) else config.get("sample_size")
    card = _card(folder / "README.md")
    trained_on = _TRAINED_ON.search(card)
    return ModelInfo(
        id=model_id,
        kind=class_name(codec.model),
        encoder=codec.identity,
        channels=codec.channels,
        pixel_format=codec.pixel_format,
        factor=codec.factor,
        latent_channels=codec.latent_channels,
        codebook_size=codec.codebook_size,
        parameters=sum(parameter.numel() for parameter in codec.model.parameters()),
        scaling_factor=codec.scaling_factor,
        shift_factor=codec.shift_factor,
        encoder_precision=codec.precision.encoder.precision,
        decoder_precision=codec.precision.decoder.precision,
        device=str(codec.model.device),
        card=card,
        stats=_stats(folder / "latent_stats.json", codec.identity),
        native_size=native if isinstance(native, int) else None,
        trained_on=trained_on[1] if trained_on else "",
        card_pictures=_pictures(folder, card),
        learned_prior=None if prior is None else prior.side * codec.factor,
        prior_classes=() if prior is None else tuple(prior.classes),
    )


def choose(infos: Mapping[str, ModelInfo], model: str | None) -> str:
    """The id of the requested model; the first if none is named. Raises UnknownModel with the ids of the server."""
    if model is None:
        return next(iter(infos))
    if not isinstance(model, str) or model not in infos:
        raise UnknownModel(f"there is no model {str(model)[:80]!r}; this server has {', '.join(infos)}")
    return model


def choose_for_latents(infos: Mapping[str, ModelInfo], model: str | None, encoder: str) -> str:
    """The id of the model that decodes latents of `encoder`. Raises WrongModel with the identities, UnknownModel."""
    fitting = [name for name, info in infos.items() if info.encoder == encoder]
    if model is None:
        if fitting:
            return fitting[0]
        reason = "no model of this server has it"
    else:
        if choose(infos, model) in fitting:
            return model
        reason = f"the encoder of {model} is {infos[model].encoder[:_SHOWN_DIGITS]}"
    if fitting:
        advice = f"decode them with {' or '.join(fitting)}"
    else:
        models = ", ".join(f"{name} ({info.encoder[:_SHOWN_DIGITS]})" for name, info in infos.items())
        advice = (
            f"the server has {models}; encode the images again with one of them, or name one with foreign=true if it "
            "fits"
        )
    raise WrongModel(f"these latents are of the encoder {encoder[:_SHOWN_DIGITS]}, and {reason}: {advice}")


def load_priors(names: Sequence[str], codecs: Mapping[str, Codec]) -> dict[str, LearnedPrior]:
    """Learned priors by the id of the model whose latents they are of, each on the model's device.

    Raises ModelError for one that cannot be loaded or fits no model, and for two of the same model.
    """
    priors: dict[str, LearnedPrior] = {}
    for name in names:
        prior = load_prior(name)
        models = [model_id for model_id, codec in codecs.items() if codec.identity == prior.encoder_identity]
        if not models:
            raise ModelError(
                f"the prior {name} is of the latents of the encoder {prior.encoder_identity[:_SHOWN_DIGITS]}, which no "
                f"model of this server has: give its model too"
            )
        if models[0] in priors:
            raise ModelError(f"the prior {name} is the second one of the latents of {models[0]}: give one of them")
        priors |= {model_id: prior.to(codecs[model_id].model.device) for model_id in models}
    return priors


def drawn_side(info: ModelInfo, prior: str, size: object, max_side: int) -> int:
    """The side in pixels of an image that is drawn from a prior.

    Raises BadRequest for a prior that the model does not have, and for a size that is out of range or has no effect.
    """
    require_choice("prior", prior, get_args(Prior))
    if prior == "normal":
        side = require_whole("size", info.native_size or 256 if size is None else size, 1, max_side)
        return max(1, round(side / info.factor)) * info.factor
    if info.learned_prior is None:
        raise BadRequest(f"{info.id} has no learned prior: use prior normal")
    if size not in (None, info.learned_prior):
        raise BadRequest(f"the learned prior draws images of {info.learned_prior} pixels a side: leave size out")
    return info.learned_prior


def draw_options(prior: str, *, temperature: object, label: object, top_k: object, top_p: object) -> DrawOptions:
    """How a learned prior draws. Raises BadRequest for a value out of range, or without effect on the normal prior."""
    temperature = require_number("temperature", temperature, 0, 10)
    given = {"label": label, "top_k": top_k, "top_p": top_p}
    if prior == "normal" and (unused := [name for name, value in given.items() if value is not None]):
        raise BadRequest(f"{unused[0]} has no effect on the normal prior: leave it out, or use prior learned")
    return DrawOptions(
        temperature,
        None if label is None else require_whole("label", label, 0, MAX_CODES),
        None if top_k is None else require_whole("top_k", top_k, 1, MAX_CODES),
        None if top_p is None else require_number("top_p", top_p, 1e-6, 1),
    )


def prior_note(info: ModelInfo) -> str:
    """Why draws from N(0, 1) may be meaningless for a model, by what was measured; '' if nothing speaks against it."""
    if info.codebook_size is not None:
        return (
            "A VQ model learns no prior over its codes: codes drawn evenly show what its codebook can express, "
            "not images like those it was trained on."
        )
    if info.stats is None:
        return "Whether this model's latents are like N(0, 1) was not measured: the draws may be meaningless."
    nats, std = _number(info.stats.get("kl_nats_per_value")), _number((info.stats.get("sample") or {}).get("std"))
    if nats is None or std is None:
        return (
            "An autoencoder without a posterior has no prior: its latents need not be like N(0, 1), and the draws are "
            "meaningless."
        )
    if nats < _MIN_NATS:
        return (
            f"The latents of this model hardly depend on the image (its KL is {nats:.2g} nats a value): "
            "draws look like its mean image."
        )
    low, high = PRIOR_STD_RANGE
    if low <= std <= high:
        return ""
    return (
        f"The latents of this model's training images have a standard deviation of {std:.3g}, draws from the "
        "prior have 1: its KL weight was too small for draws to look like images."
    )


def interpolation_note(info: ModelInfo) -> str:
    """What to know of interpolated images; '' if nothing."""
    if info.codebook_size is None:
        return ""
    return "There is nothing between two codes: in between, each position jumps from one code to another."


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _card(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return re.sub(r"\A---\n.*?^---\n+", "", text, flags=re.DOTALL | re.MULTILINE)


def _pictures(folder: Path, card: str) -> dict[str, bytes]:
    """The pictures beside a card that it shows. What lies elsewhere is left out, and files too large for a page."""
    names = dict.fromkeys(_CARD_PICTURE.findall(card))
    files = {name: folder / name for name in names if (folder / name).is_file()}
    return {name: file.read_bytes() for name, file in files.items() if file.stat().st_size <= _MAX_PICTURE_BYTES}


def _stats(file: Path, identity: str) -> dict[str, Any] | None:
    """What was measured of this very encoder, None if there is nothing."""
    try:
        stats = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stats if isinstance(stats, dict) and stats.get("encoder_identity") == identity else None
