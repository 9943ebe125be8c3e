"""What images may be drawn from: N(0, 1), codes drawn evenly, or a prior that was learned of a model's latents."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from latent_ae.evaluation.report import PRIOR_STD_RANGE
from latent_ae.inference import Codec
from latent_ae.models.errors import ModelError
from latent_ae.models.hierarchical_prior import HierarchicalPrior, load_prior
from latent_ae.service.catalog import SHOWN_DIGITS
from latent_ae.service.errors import BadRequest
from latent_ae.service.limits import require_choice, require_whole
from latent_ae.service.results import ModelInfo

Prior = Literal["normal", "learned"]
_LEAST_NATS = 0.01
"""of KL a latent value below which latents hardly depend on the image"""


def load_priors(names: Sequence[str], codecs: Mapping[str, Codec]) -> dict[str, HierarchicalPrior]:
    """Priors by the id of the model whose latents they are of, each where its model is.

    Raises ModelError for one that cannot be loaded or is of no model's latents, and for two of the same.
    """
    priors: dict[str, HierarchicalPrior] = {}
    for name in names:
        prior = load_prior(name)
        models = [model_id for model_id, codec in codecs.items() if codec.identity == prior.encoder_identity]
        if not models:
            raise ModelError(
                f"the prior {name} is of the latents of the encoder {prior.encoder_identity[:SHOWN_DIGITS]}, which no "
                f"model of this server has: give its model too"
            )
        if models[0] in priors:
            raise ModelError(f"the prior {name} is the second one of the latents of {models[0]}: give one of them")
        priors |= {model_id: prior.to(codecs[model_id].model.device) for model_id in models}
    return priors


def drawn_side(info: ModelInfo, prior: str, size: object, most: int) -> int:
    """The side in pixels of an image from a model's prior, normal or learned.

    Raises BadRequest for a prior that there is not, and a size that cannot be or has no effect.
    """
    require_choice("prior", prior, get_args(Prior))
    if prior == "normal":
        side = require_whole("size", info.native_size or 256 if size is None else size, 1, most)
        return max(1, round(side / info.factor)) * info.factor
    if info.learned_prior is None:
        raise BadRequest(f"{info.id} has no learned prior: take the normal one")
    if size not in (None, info.learned_prior):
        raise BadRequest(f"the learned prior draws images of {info.learned_prior} pixels a side: leave size out")
    return info.learned_prior


def prior_note(info: ModelInfo) -> str:
    """Why draws from N(0, 1) may mean nothing to a model, from what was measured; '' if nothing speaks against it."""
    if info.codebook_size is not None:
        return (
            "A VQ model learns no prior over its codes: codes drawn evenly show what its codebook can express, "
            "not images like those it was trained on."
        )
    if info.stats is None:
        return "Whether this model's latents are like N(0, 1) was not measured: the draws may mean nothing."
    nats, std = _number(info.stats.get("kl_nats_per_value")), _number((info.stats.get("sample") or {}).get("std"))
    if nats is None or std is None:
        return "A plain autoencoder has no prior: its latents need not be like N(0, 1), and the draws mean nothing."
    if nats < _LEAST_NATS:
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


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
