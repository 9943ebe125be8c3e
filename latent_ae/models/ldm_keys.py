"""The two sets of names for the same weights of an autoencoder: diffusers' and latent-diffusion's (LDM).

LDM's are also those of Stable Diffusion's checkpoints, FLUX and ComfyUI. They count the decoder's levels from the image
side, as the encoder's, and keep attention's weights as 1x1 convolutions:

    diffusers    decoder.up_blocks.0.resnets.0.norm1.weight    encoder.mid_block.attentions.0.to_q.weight [C,C]
    LDM          decoder.up.3.block.0.norm1.weight             encoder.mid.attn_1.q.weight                [C,C,1,1]
"""

import re
from collections.abc import Mapping

from torch import Tensor

_MODULES = [
    ("encoder.down_blocks.{level}.resnets.{layer}.", "encoder.down.{level}.block.{layer}."),
    ("encoder.down_blocks.{level}.attentions.{layer}.", "encoder.down.{level}.attn.{layer}."),
    ("encoder.down_blocks.{level}.downsamplers.0.", "encoder.down.{level}.downsample."),
    ("encoder.mid_block.resnets.0.", "encoder.mid.block_1."),
    ("encoder.mid_block.attentions.0.", "encoder.mid.attn_1."),
    ("encoder.mid_block.resnets.1.", "encoder.mid.block_2."),
    ("encoder.conv_norm_out.", "encoder.norm_out."),
    ("decoder.mid_block.resnets.0.", "decoder.mid.block_1."),
    ("decoder.mid_block.attentions.0.", "decoder.mid.attn_1."),
    ("decoder.mid_block.resnets.1.", "decoder.mid.block_2."),
    ("decoder.up_blocks.{level}.resnets.{layer}.", "decoder.up.{level}.block.{layer}."),
    ("decoder.up_blocks.{level}.attentions.{layer}.", "decoder.up.{level}.attn.{layer}."),
    ("decoder.up_blocks.{level}.upsamplers.0.", "decoder.up.{level}.upsample."),
    ("decoder.conv_norm_out.", "decoder.norm_out."),
]
"""(diffusers, LDM); what is in none of these modules has the same name in both"""

_LAYERS = [
    ("conv_shortcut.", "nin_shortcut."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
    # MoVQ's decoder is normalised by its latents. These come before group_norm, whose LDM name they begin with.
    ("spatial_norm.norm_layer.", "norm.norm_layer."),
    ("spatial_norm.conv_y.", "norm.conv_y."),
    ("spatial_norm.conv_b.", "norm.conv_b."),
    ("group_norm.", "norm."),
]
"""(diffusers, LDM) within one of the modules; the first that fits"""

_DIFFUSERS, _LDM = 0, 1
_ATTENTION_WEIGHT = re.compile(r".*\.attentions\.[0-9]+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def to_ldm_keys(state_dict: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A state dict of diffusers' AutoencoderKL or VQModel under LDM's names; `from_ldm_keys` turns it back.

    `levels` is the number of `block_out_channels`. Attention's weights [C,C] become [C,C,1,1]; no other tensor is
    changed, and none is copied.
    """
    return {
        to_ldm_name(name, levels): tensor[:, :, None, None] if _ATTENTION_WEIGHT.fullmatch(name) else tensor
        for name, tensor in state_dict.items()
    }


def from_ldm_keys(state_dict: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A state dict under LDM's names, without any prefix, under diffusers' names: the inverse of `to_ldm_keys`."""
    renamed = {from_ldm_name(name, levels): tensor for name, tensor in state_dict.items()}
    return {name: linear_attention(name, tensor) for name, tensor in renamed.items()}


def to_ldm_name(name: str, levels: int) -> str:
    """LDM's name for what diffusers calls `name` in an autoencoder of `levels` levels."""
    return _renamed(name, levels, _DIFFUSERS, _LDM)


def from_ldm_name(name: str, levels: int) -> str:
    """Diffusers' name for what LDM calls `name` in an autoencoder of `levels` levels."""
    return _renamed(name, levels, _LDM, _DIFFUSERS)


def linear_attention(name: str, tensor: Tensor) -> Tensor:
    """[C,C] for attention's weight (by its diffusers name) kept as a 1x1 convolution, any other tensor as it is."""
    if _ATTENTION_WEIGHT.fullmatch(name) and tensor.shape[2:].numel() == 1:
        return tensor.reshape(tensor.shape[:2])
    return tensor


def _renamed(name: str, levels: int, source: int, target: int) -> str:
    for row, patterns in zip(_MODULES, _PATTERNS, strict=True):
        if match := patterns[source].match(name):
            places = match.groupdict()
            if "level" in places and name.startswith("decoder."):
                places["level"] = str(levels - 1 - int(places["level"]))
            rest = name[match.end() :]
            layer = next((layer for layer in _LAYERS if rest.startswith(layer[source])), ("", ""))
            return row[target].format(**places) + layer[target] + rest[len(layer[source]) :]
    return name


def _pattern(template: str) -> re.Pattern[str]:
    numbers = {place: f"(?P<{place}>0|[1-9][0-9]*)" for place in ("level", "layer")}
    return re.compile(template.replace(".", r"\.").format(**numbers))


_PATTERNS = [tuple(_pattern(template) for template in row) for row in _MODULES]
