"""What a model's config says that programs ask for, and what they may ask: the rules of `latent_ae.export.loaders`."""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers import AutoencoderKL

from latent_ae.models import Autoencoder, factor_of, latent_shape

STABLE_DIFFUSION = (128, 256, 512, 512)
FACTOR_4 = (128, 256, 512)
"""widths of the levels of Stable Diffusion's autoencoders, and of those of its upscalers"""


@dataclass(frozen=True)
class Facts:
    """What a config says."""

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
    """whether there are 1x1 convolutions after the encoder and before the decoder"""
    scaling: float | None
    shift: float | None
    has_latent_statistics: bool
    spatial_norm: bool

    @classmethod
    def of(cls, model: Autoencoder) -> "Facts":
        """Those of a model, whose weights are not looked at."""
        config = model.config
        return cls(
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

    @property
    def level_attention(self) -> bool:
        """Whether there is attention anywhere but in the middle."""
        return any((*self.down_attention, *self.up_attention))


Rule = Callable[[Facts], str | None]
"""why a model does not fit; None where it does"""


def kl(facts: Facts) -> str | None:
    """It takes an AutoencoderKL."""
    return None if facts.is_kl else "it takes an AutoencoderKL, and this is a VQModel"


def no_vq_single_file(facts: Facts) -> str | None:
    """from_single_file is a method of AutoencoderKL."""
    return None if facts.is_kl else "there is no VQModel.from_single_file"


def vq(facts: Facts) -> str | None:
    """It takes a VQModel."""
    return "it quantises: it takes a VQModel" if facts.is_kl else None


CLASSES: tuple[Rule, ...] = (kl, no_vq_single_file, vq)
"""of the model's class: where one is not met, the others have nothing to be about"""


def symmetric(facts: Facts) -> str | None:
    """Images come out with the channels that they went in with."""
    given, made = facts.image_channels
    return None if given == made else f"images of {given} channels become images of {made}"


def rgb(facts: Facts) -> str | None:
    """Images are RGB, on both sides."""
    given, made = facts.image_channels
    return None if given == made == 3 else f"it needs RGB images, and these have {given} channels"


def no_level_attention(facts: Facts) -> str | None:
    """Attention is in the middle alone."""
    return "attention in a level of its own is left out by its key map" if facts.level_attention else None


def no_statistics(facts: Facts) -> str | None:
    """Latents are scaled by one number."""
    return "it ignores latents_mean and latents_std" if facts.has_latent_statistics else None


def statistics_of_four(facts: Facts) -> str | None:
    """It reads statistics by channel, for 4 of them."""
    if facts.has_latent_statistics and facts.latent_channels != 4:
        return f"it takes latents_mean for 4 channels, and there are {facts.latent_channels}"
    return None


def shift_is_number(facts: Facts) -> str | None:
    """It adds the shift without asking whether there is one."""
    if facts.shift is None:
        return "shift_factor is no number, and it adds it (latent-ae export diffusers writes 0.0)"
    return None


def scaling_is_number(facts: Facts) -> str | None:
    """It multiplies by the scale without asking whether there is one."""
    return "scaling_factor is no number" if facts.scaling is None else None


def factor_8(facts: Facts) -> str | None:
    """Its latents have an eighth of the image's side."""
    return None if facts.factor == 8 else f"it needs a factor of 8, and it is {facts.factor}"


def silu(facts: Facts) -> str | None:
    """The activation is built in."""
    return None if facts.activation == "silu" else f"it needs the activation silu, and it is {facts.activation}"


def groups_32(facts: Facts) -> str | None:
    """The number of groups is built in."""
    return None if facts.groups == 32 else f"it needs 32 groups, and there are {facts.groups}"


def middle_attention(facts: Facts) -> str | None:
    """Attention in the middle is built in."""
    return None if facts.middle_attention else "it needs attention in the middle"


def none_in_levels(facts: Facts) -> str | None:
    """It has no place for attention in a level."""
    return "it has no attention in a level of its own, and this model has" if facts.level_attention else None


def only_middle_attention(facts: Facts) -> str | None:
    """Attention is in the middle, and nowhere else."""
    if facts.middle_attention and not facts.level_attention:
        return None
    return "it needs attention in the middle and nowhere else"


def same_attention(facts: Facts) -> str | None:
    """One list of levels with attention goes for both sides."""
    if facts.down_attention == facts.up_attention:
        return None
    return "it needs attention at the same levels of encoder and decoder"


def multiples(facts: Facts) -> str | None:
    """Widths are whole multiples of the first."""
    if any(width % facts.widths[0] for width in facts.widths):
        return f"it needs widths that are multiples of the first, and they are {_listed(facts.widths)}"
    return None


def both_quant_convs(facts: Facts) -> str | None:
    """Both 1x1 convolutions are built in."""
    return None if all(facts.quant_convs) else "it needs both 1x1 convolutions around the latents"


def no_quant_convs(facts: Facts) -> str | None:
    """It has no place for 1x1 convolutions."""
    return "it has no 1x1 convolutions around the latents, and this model has" if any(facts.quant_convs) else None


def paired_quant_convs(facts: Facts) -> str | None:
    """It goes by one of the two."""
    if facts.quant_convs[0] == facts.quant_convs[1]:
        return None
    return "it knows both 1x1 convolutions around the latents or none"


def no_spatial_norm(facts: Facts) -> str | None:
    """MoVQ's decoder is unknown to it."""
    return "its decoder is not normalised by the latents (MoVQ)" if facts.spatial_norm else None


def layers_2(facts: Facts) -> str | None:
    """The number of layers is built in."""
    return None if facts.layers == 2 else f"it needs 2 layers a level, and there are {facts.layers}"


def widths(*known: tuple[int, ...]) -> Rule:
    """The widths of the levels are built in."""

    def rule(facts: Facts) -> str | None:
        if facts.widths in known:
            return None
        return f"it needs the widths {' or '.join(map(_listed, known))}, and they are {_listed(facts.widths)}"

    return rule


def latent_channels(*known: int) -> Rule:
    """The number of latent channels is built in."""

    def rule(facts: Facts) -> str | None:
        if facts.latent_channels in known:
            return None
        return f"it needs {' or '.join(map(str, known))} latent channels, and there are {facts.latent_channels}"

    return rule


def taken(channels: int, why: str) -> Rule:
    """By this number of latent channels it tells another model, or did."""
    return lambda facts: f"{channels} latent channels: {why}" if facts.latent_channels == channels else None


def beside_rgb(facts: Facts) -> str | None:
    """Latents are put beside an RGB image."""
    if facts.latent_channels == 3:
        return None
    return f"it puts latents beside an RGB image: they need 3 channels, and have {facts.latent_channels}"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
