"""What a model's config says, and what loaders of other programs require of it."""

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
        """The facts of a model. Its weights are not read."""
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

    @property
    def listed_widths(self) -> str:
        """The widths of the levels, for messages."""
        return _listed(self.widths)


@dataclass(frozen=True)
class Rule:
    """One requirement of a loader."""

    holds: Callable[[Facts], bool]
    reason: str
    """why a model that breaks it does not fit; `{model.FIELD}` is replaced by the fact"""

    def broken_by(self, facts: Facts) -> str | None:
        """The reason; None where the rule holds."""
        return None if self.holds(facts) else self.reason.format(model=facts)


KL = Rule(lambda model: model.is_kl, "needs an AutoencoderKL, got a VQModel")
KL_FILE = Rule(lambda model: model.is_kl, "there is no VQModel.from_single_file")
VQ = Rule(lambda model: not model.is_kl, "needs a VQModel, got an AutoencoderKL")
CLASSES = (KL, KL_FILE, VQ)
"""about the model's class: where one is broken, the others do not apply"""

# The images and the latents.
SYMMETRIC = Rule(
    lambda model: model.image_channels[0] == model.image_channels[1],
    "needs as many channels out as in, got {model.image_channels[0]} in and {model.image_channels[1]} out",
)
RGB = Rule(lambda model: model.image_channels == (3, 3), "needs RGB images, got {model.image_channels[0]} channels")
FACTOR_OF_8 = Rule(lambda model: model.factor == 8, "needs a downsampling factor of 8, got {model.factor}")
BESIDE_RGB = Rule(
    lambda model: model.latent_channels == 3,
    "concatenates latents with an RGB image: needs 3 latent channels, got {model.latent_channels}",
)


def latent_channels(*known: int) -> Rule:
    """The number of latent channels is fixed."""
    expected = " or ".join(map(str, known))
    return Rule(
        lambda model: model.latent_channels in known, f"needs {expected} latent channels, got {{model.latent_channels}}"
    )


def mistaken(channels: int, why: str) -> Rule:
    """A model with this number of latent channels is, or was, mistaken for another."""
    return Rule(lambda model: model.latent_channels != channels, f"{channels} latent channels: {why}")


# The scale of the latents.
NO_STATISTICS = Rule(lambda model: not model.has_latent_statistics, "ignores latents_mean and latents_std")
STATISTICS_OF_4 = Rule(
    lambda model: not model.has_latent_statistics or model.latent_channels == 4,
    "applies latents_mean to 4 channels, got {model.latent_channels}",
)
SHIFT_IS_NUMBER = Rule(
    lambda model: model.shift is not None,
    "adds shift_factor, which is not a number in this config (latent-ae export diffusers writes 0.0)",
)
SCALING_IS_NUMBER = Rule(lambda model: model.scaling is not None, "needs scaling_factor, which is not a number")

# The layers.
SILU = Rule(lambda model: model.activation == "silu", "needs the activation silu, got {model.activation}")
GROUPS_32 = Rule(lambda model: model.groups == 32, "needs 32 normalisation groups, got {model.groups}")
LAYERS_2 = Rule(lambda model: model.layers == 2, "needs 2 layers per level, got {model.layers}")
MULTIPLES = Rule(
    lambda model: not any(width % model.widths[0] for width in model.widths),
    "needs widths that are multiples of the first, got {model.listed_widths}",
)
NO_SPATIAL_NORM = Rule(lambda model: not model.spatial_norm, "has no decoder normalised by the latents (MoVQ)")


def widths(*known: tuple[int, ...]) -> Rule:
    """The widths of the levels are fixed."""
    expected = " or ".join(map(_listed, known))
    return Rule(lambda model: model.widths in known, f"needs the widths {expected}, got {{model.listed_widths}}")


# Attention, and the 1x1 convolutions around the latents.
MIDDLE_ATTENTION = Rule(lambda model: model.middle_attention, "needs attention in the middle block")
NO_LEVEL_ATTENTION = Rule(lambda model: not model.level_attention, "has no attention in levels, this model has")
LEVEL_ATTENTION_DROPPED = Rule(lambda model: not model.level_attention, "its key map leaves out attention in levels")
ONLY_MIDDLE_ATTENTION = Rule(
    lambda model: model.middle_attention and not model.level_attention,
    "needs attention in the middle block and nowhere else",
)
SAME_ATTENTION = Rule(
    lambda model: model.down_attention == model.up_attention,
    "needs attention in the same levels of encoder and decoder",
)
BOTH_QUANT_CONVS = Rule(lambda model: all(model.quant_convs), "needs both 1x1 convolutions around the latents")
NO_QUANT_CONVS = Rule(
    lambda model: not any(model.quant_convs), "has no 1x1 convolutions around the latents, this model has"
)
PAIRED_QUANT_CONVS = Rule(
    lambda model: model.quant_convs[0] == model.quant_convs[1],
    "needs both 1x1 convolutions around the latents or neither",
)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
