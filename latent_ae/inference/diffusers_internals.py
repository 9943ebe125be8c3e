"""The inner attributes of diffusers' blocks that inference and export read: here, and nowhere else.

diffusers does not document them, so a new version may rename them. tests/inference/test_diffusers_internals.py finds
that out: it looks for every one of them in the installed version.
"""

from typing import Any, NamedTuple

from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

INTERNALS: dict[type[nn.Module], tuple[str, ...]] = {
    ResnetBlock2D: (
        *("norm1", "conv1", "norm2", "conv2", "conv_shortcut", "output_scale_factor"),
        *("time_emb_proj", "upsample", "downsample", "nonlinearity", "time_embedding_norm"),
    ),
    Attention: (
        *("group_norm", "to_q", "to_k", "to_v", "to_out", "rescale_output_factor"),
        *("heads", "residual_connection", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj"),
    ),
    Upsample2D: ("conv", "norm", "use_conv", "interpolate"),
    Downsample2D: ("conv", "norm", "use_conv", "padding"),
    Encoder: ("conv_in", "down_blocks", "mid_block", "conv_norm_out", "conv_act", "conv_out"),
    Decoder: ("conv_in", "mid_block", "up_blocks", "conv_norm_out", "conv_act", "conv_out"),
}
FINAL_ACTIVATION = "conv_act"
"""of diffusers' Encoder and Decoder, between the last normalisation and the last convolution"""


class ResnetParts(NamedTuple):
    """norm1, silu, conv1, norm2, silu, conv2, plus the input or its 1x1 convolution, divided by `scale`."""

    norm1: nn.Module
    conv1: nn.Module
    norm2: nn.Module
    conv2: nn.Module
    shortcut: nn.Module | None
    scale: float


class AttentionParts(NamedTuple):
    """One head over the positions of an image, plus the input, divided by `scale`."""

    norm: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    scale: float


def resnet_parts(module: nn.Module) -> ResnetParts | None:
    """Of a `ResnetBlock2D` in evaluation mode, without time embedding, with SiLU; None for every other module."""
    if not isinstance(module, ResnetBlock2D) or module.training or not isinstance(module.nonlinearity, nn.SiLU):
        return None
    others = (module.time_emb_proj, module.upsample, module.downsample)
    if any(part is not None for part in others) or module.time_embedding_norm == "scale_shift":
        return None
    scale = float(module.output_scale_factor)
    return ResnetParts(module.norm1, module.conv1, module.norm2, module.conv2, module.conv_shortcut, scale)


def attention_parts(module: nn.Module) -> AttentionParts | None:
    """Of an `Attention` in evaluation mode with one head and no other input; None for every other module."""
    if not isinstance(module, Attention) or module.training or module.group_norm is None:
        return None
    others = (module.spatial_norm, module.norm_q, module.norm_k, module.norm_cross, module.add_k_proj)
    if module.heads != 1 or not module.residual_connection or any(others):
        return None
    scale = float(module.rescale_output_factor)
    return AttentionParts(module.group_norm, module.to_q, module.to_k, module.to_v, module.to_out[0], scale)


def upsampling_conv(module: nn.Module) -> nn.Conv2d | None:
    """The 3x3 convolution of an `Upsample2D` that repeats each value 2x2 and convolves; None for every other module."""
    if not isinstance(module, Upsample2D) or module.norm is not None or not (module.use_conv and module.interpolate):
        return None
    conv = getattr(module, "conv", None)
    if type(conv) is not nn.Conv2d:
        return None
    layout = (conv.kernel_size, conv.stride, conv.padding, conv.padding_mode)
    return conv if layout == ((3, 3), (1, 1), (1, 1), "zeros") else None


def downsampling_conv(module: nn.Module) -> nn.Conv2d | None:
    """The 3x3 convolution of stride 2 of a `Downsample2D` that adds a margin below and at the right; else None."""
    if not isinstance(module, Downsample2D) or module.norm is not None or not (module.use_conv and module.padding == 0):
        return None
    conv = module.conv
    if type(conv) is not nn.Conv2d:
        return None
    return conv if (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (2, 2), (0, 0)) else None


def layers_of(body: nn.Module) -> list[nn.Module] | None:
    """Residual blocks, attention and changes of size between the first convolution and the last normalisation, in the
    order in which they run; None for what is not diffusers' own Encoder or Decoder.
    """
    if type(body) not in (Encoder, Decoder) or body.training:
        return None
    around: Any = body.down_blocks if isinstance(body, Encoder) else body.up_blocks
    middle: Any = body.mid_block
    layers = [middle.resnets[0]]
    for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
        layers += [resnet] if attention is None else [attention, resnet]
    outer: list[nn.Module] = []
    for block in around:
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            outer += [resnet] if attention is None else [resnet, attention]
        outer += getattr(block, "downsamplers" if isinstance(body, Encoder) else "upsamplers", None) or []
    return [*outer, *layers] if isinstance(body, Encoder) else [*layers, *outer]


def attends_alone(module: nn.Module) -> bool:
    """Whether it is attention over what it is given; MoVQ's needs the latents too."""
    return isinstance(module, Attention) and module.spatial_norm is None
