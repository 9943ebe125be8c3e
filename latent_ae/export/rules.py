"""What a model's config says, and what loaders of other programs require of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent_ae.models import Autoencoder

STABLE_DIFFUSION = (128, 256, 512, 512)
FACTOR_4 = (128, 256, 512)
"""widths of the levels of Stable Diffusion's autoencoders, and of those of its upscalers"""


class Facts:
    """What a model's config says; its weights are not read.

    `down_attention` and `up_attention` are by level, from the image side. `quant_convs`: whether there are 1x1
    convolutions after the encoder and before the decoder.
    """

    def __init__(self, model: "Autoencoder") -> None:
        from latent_ae.models.autoencoder import class_name, factor_of, latent_channels

        config = model.config
        self.is_kl = class_name(model) == "AutoencoderKL"
        self.image_channels = (int(config["in_channels"]), int(config["out_channels"]))
        self.widths = tuple(config["block_out_channels"])
        self.listed_widths = _listed(self.widths)
        self.layers = int(config["layers_per_block"])
        self.groups = int(config["norm_num_groups"])
        self.activation = str(config["act_fn"])
        self.factor = factor_of(model)
        self.latent_channels = latent_channels(model)
        self.down_attention = tuple("Attn" in kind for kind in config["down_block_types"])
        self.up_attention = tuple("Attn" in kind for kind in reversed(config["up_block_types"]))
        self.level_attention = any((*self.down_attention, *self.up_attention))
        self.middle_attention = bool(config["mid_block_add_attention"])
        self.quant_convs = (model.quant_conv is not None, model.post_quant_conv is not None)
        self.scaling: float | None = config.get("scaling_factor")
        self.shift: float | None = config.get("shift_factor")
        self.has_latent_statistics = any(config.get(name) is not None for name in ("latents_mean", "latents_std"))
        self.spatial_norm = config.get("norm_type") == "spatial"


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
PIL_IMAGES = Rule(
    lambda model: model.image_channels[1] <= 4,
    'images of {model.image_channels[1]} channels are no PIL images: ask pipelines for output_type="np"',
)
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
AT_LEAST_2_LAYERS, AT_MOST_2_LAYERS = (
    Rule(holds, "needs 2 layers per level, got {model.layers}")
    for holds in (lambda model: model.layers >= 2, lambda model: model.layers <= 2)
)
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
ATTENTION, NO_OTHER_ATTENTION = (
    Rule(holds, "needs attention in the middle block and nowhere else")
    for holds in (
        lambda model: model.middle_attention,
        lambda model: not (model.middle_attention and model.level_attention),
    )
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
