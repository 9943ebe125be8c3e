"""Which programs can use a model as it is, and why others cannot.

What each program asks for was read in its source: its loader's fixed sizes, and what it does with the scaling.
"""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers import AutoencoderKL

from latent_ae.models import Autoencoder, factor_of, latent_shape

_STABLE_DIFFUSION = (128, 256, 512, 512)
_FACTOR_4 = (128, 256, 512)
_SD_SCALING = 0.18215


@dataclass(frozen=True)
class Verdict:
    """Whether one program can use a model."""

    consumer: str
    works: bool
    reasons: tuple[str, ...]
    """why not; none where it works"""
    note: str = ""
    """how, where it works"""


@dataclass(frozen=True)
class _Facts:
    """What a config says that any consumer asks for."""

    is_kl: bool
    image_channels: tuple[int, int]
    widths: tuple[int, ...]
    layers: int
    groups: int
    activation: str
    latent_channels: int
    factor: int
    down_attention: tuple[bool, ...]
    """by level, from the image side, as up_attention"""
    up_attention: tuple[bool, ...]
    middle_attention: bool
    quant_convs: tuple[bool, bool]
    scaling: float | None
    shift: float | None
    has_latent_statistics: bool
    spatial_norm: bool

    @property
    def level_attention(self) -> bool:
        """Whether there is attention anywhere but in the middle."""
        return any((*self.down_attention, *self.up_attention))


def compat(model: Autoencoder) -> list[Verdict]:
    """A verdict for every program that is known, in the order of CONSUMERS."""
    facts = _facts(model)
    verdicts = []
    for name, judge in CONSUMERS.items():
        reasons, note = judge(facts)
        verdicts.append(Verdict(name, not reasons, tuple(reasons), "" if reasons else note))
    return verdicts


def verdict(model: Autoencoder, consumer: str) -> Verdict:
    """That for one program of CONSUMERS."""
    return next(each for each in compat(model) if each.consumer == consumer)


def _facts(model: Autoencoder) -> _Facts:
    config = model.config
    return _Facts(
        is_kl=isinstance(model, AutoencoderKL),
        image_channels=(int(config["in_channels"]), int(config["out_channels"])),
        widths=tuple(config["block_out_channels"]),
        layers=int(config["layers_per_block"]),
        groups=int(config["norm_num_groups"]),
        activation=str(config["act_fn"]),
        latent_channels=latent_shape(model, factor_of(model))[0],
        factor=factor_of(model),
        down_attention=tuple("Attn" in kind for kind in config["down_block_types"]),
        up_attention=tuple("Attn" in kind for kind in reversed(config["up_block_types"])),
        middle_attention=bool(config["mid_block_add_attention"]),
        quant_convs=(model.quant_conv is not None, model.post_quant_conv is not None),
        scaling=config.get("scaling_factor"),
        shift=config.get("shift_factor"),
        has_latent_statistics=any(config.get(name) is not None for name in ("latents_mean", "latents_std")),
        spatial_norm=config.get("norm_type") == "spatial",
    )


_Judged = tuple[list[str], str]


def _folder(_facts: _Facts) -> _Judged:
    return [], "the whole config, as a folder or a pipeline's vae/ (latent-ae export diffusers)"


def _single_file(facts: _Facts) -> _Judged:
    reasons = _not_kl(facts, "there is no VQModel.from_single_file")
    if facts.is_kl and facts.level_attention:
        reasons.append("attention in a level of its own is left out by its key map")
    return reasons, "with config=DIR: without one it asks the hub for Stable Diffusion's (latent-ae export ldm)"


def _stable_diffusion(facts: _Facts) -> _Judged:
    reasons = _not_kl(facts) + _symmetric(facts)
    if facts.has_latent_statistics:
        reasons.append("it ignores latents_mean and latents_std")
    return reasons, _network(facts, 4) + _shift_ignored(facts)


def _xl(facts: _Facts) -> _Judged:
    reasons = _not_kl(facts) + _symmetric(facts)
    if facts.has_latent_statistics and facts.latent_channels != 4:
        reasons.append(f"it takes latents_mean for 4 channels, and there are {facts.latent_channels}")
    return reasons, _network(facts, 4) + _shift_ignored(facts)


def _shifting(facts: _Facts) -> _Judged:
    reasons = _not_kl(facts) + _symmetric(facts)
    if facts.is_kl and facts.shift is None:
        reasons.append("shift_factor is no number, and it adds it (latent-ae export diffusers writes 0.0)")
    if facts.has_latent_statistics:
        reasons.append("it ignores latents_mean and latents_std")
    return reasons, _network(facts, 16)


def _super_resolution(facts: _Facts) -> _Judged:
    if facts.is_kl:
        return ["it quantises: it takes a VQModel"], ""
    if facts.latent_channels != 3:
        return [f"it puts latents beside an RGB image: they need 3 channels, and have {facts.latent_channels}"], ""
    return [], f"for images of a {facts.factor}th of the side"


def _latent_diffusion(facts: _Facts) -> _Judged:
    reasons = []
    if facts.groups != 32:
        reasons.append(f"it needs 32 groups, and there are {facts.groups}")
    if not facts.middle_attention:
        reasons.append("it needs attention in the middle")
    if facts.activation != "silu":
        reasons.append(f"it needs the activation silu, and it is {facts.activation}")
    if any(width % facts.widths[0] for width in facts.widths):
        reasons.append(f"it needs widths that are multiples of the first, and they are {_listed(facts.widths)}")
    if not all(facts.quant_convs):
        reasons.append("it needs both 1x1 convolutions around the latents")
    if facts.spatial_norm:
        reasons.append("its decoder is not normalised by the latents (MoVQ)")
    if facts.down_attention != facts.up_attention:
        reasons.append("it needs attention at the same levels of encoder and decoder")
    return reasons, "instantiate_from_config(ldm.yaml) and load_state_dict of the one file (latent-ae export ldm)"


def _comfy(facts: _Facts) -> _Judged:
    reasons = _not_kl(facts) or [
        *_needs_rgb(facts),
        *_needs_widths(facts, _STABLE_DIFFUSION, _FACTOR_4),
        *_needs_layers(facts),
    ]
    if facts.is_kl and facts.quant_convs[0] != facts.quant_convs[1]:
        reasons.append("it knows both 1x1 convolutions around the latents or none")
    if facts.is_kl and facts.latent_channels == 64:
        reasons.append("it takes 64 latent channels for another model's")
    note = "as one file (latent-ae export ldm); the latents' scale is the diffusion model's own, not scaling_factor"
    return reasons, note


def _web_ui(facts: _Facts) -> _Judged:
    return _not_kl(facts) or _exactly_stable_diffusion(facts), (
        "as one file (latent-ae export ldm); the latents' scale is the checkpoint's own, not scaling_factor"
    )


def _kohya(facts: _Facts) -> _Judged:
    reasons = _not_kl(facts) or _needs_rgb(facts)
    if facts.is_kl and facts.factor != 8:
        reasons.append(f"it needs a factor of 8, and it is {facts.factor}")
    if facts.is_kl and facts.latent_channels != 4:
        reasons.append(f"it needs 4 latent channels, and there are {facts.latent_channels}")
    form = "as a folder or one file" if not _exactly_stable_diffusion(facts) else "as a diffusers folder alone"
    return (
        reasons,
        f"{form}; it scales latents by {_SD_SCALING} (SDXL: 0.13025), whatever scaling_factor says"
        + _shift_ignored(facts),
    )


def _optimum(facts: _Facts) -> _Judged:
    reasons = _not_kl(facts) + _symmetric(facts)
    if facts.is_kl and facts.scaling is None:
        reasons.append("scaling_factor is no number")
    return reasons, "vae_encoder/ and vae_decoder/ of its folder (latent-ae export onnx)"


def _onnx(facts: _Facts) -> _Judged:
    return [], "moments and latents" if facts.is_kl else "codes [B,h,w] out of the encoder and into the decoder"


def _pt2(facts: _Facts) -> _Judged:
    return [], "moments and latents" if facts.is_kl else "codes [B,h,w] out of the encoder and into the decoder"


CONSUMERS: dict[str, Callable[[_Facts], _Judged]] = {
    "diffusers": _folder,
    "AutoencoderKL.from_single_file": _single_file,
    "diffusers SD 1.x and 2.x pipelines": _stable_diffusion,
    "diffusers SDXL pipelines": _xl,
    "diffusers SD3 and FLUX pipelines": _shifting,
    "diffusers LDM super-resolution": _super_resolution,
    "latent-diffusion": _latent_diffusion,
    "ComfyUI": _comfy,
    "A1111 and Forge": _web_ui,
    "kohya sd-scripts": _kohya,
    "optimum": _optimum,
    "ONNX Runtime": _onnx,
    "torch.export": _pt2,
}
"""what is wrong with a model for each, and how it is used where nothing is"""


def _not_kl(facts: _Facts, reason: str = "it takes an AutoencoderKL, and this is a VQModel") -> list[str]:
    return [] if facts.is_kl else [reason]


def _symmetric(facts: _Facts) -> list[str]:
    given, made = facts.image_channels
    return [] if given == made else [f"images of {given} channels become images of {made}"]


def _shift_ignored(facts: _Facts) -> str:
    return f"; it ignores shift_factor {facts.shift:.3g}, and has to in training too" if facts.shift else ""


def _network(facts: _Facts, released: int) -> str:
    own = "" if facts.latent_channels == released else f" (released ones have {released})"
    return f"with a network of {facts.latent_channels} latent channels{own}"


def _needs_rgb(facts: _Facts) -> list[str]:
    given, made = facts.image_channels
    return [] if given == made == 3 else [f"it needs RGB images, and these have {given} channels"]


def _needs_widths(facts: _Facts, *known: tuple[int, ...]) -> list[str]:
    if facts.widths in known:
        return []
    return [f"it needs the widths {' or '.join(map(_listed, known))}, and they are {_listed(facts.widths)}"]


def _needs_layers(facts: _Facts) -> list[str]:
    reasons = []
    if facts.layers != 2:
        reasons.append(f"it needs 2 layers a level, and there are {facts.layers}")
    if facts.groups != 32:
        reasons.append(f"it needs 32 groups, and there are {facts.groups}")
    if facts.level_attention or not facts.middle_attention:
        reasons.append("it needs attention in the middle and nowhere else")
    if facts.activation != "silu":
        reasons.append(f"it needs the activation silu, and it is {facts.activation}")
    return reasons


def _exactly_stable_diffusion(facts: _Facts) -> list[str]:
    reasons = [*_needs_rgb(facts), *_needs_widths(facts, _STABLE_DIFFUSION), *_needs_layers(facts)]
    if facts.latent_channels != 4:
        reasons.append(f"it needs 4 latent channels, and there are {facts.latent_channels}")
    if not all(facts.quant_convs):
        reasons.append("it needs both 1x1 convolutions around the latents")
    return reasons


def _listed(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths))
