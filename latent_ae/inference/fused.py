"""A side rearranged for inference: the same weights and the same function in fewer passes over memory.

Memory is what is left to save once convolutions run at speed: on a CPU new tensors of a large image come from the
system page by page, which takes longer than what is computed in them. So what is read for the last time is overwritten,
a division by one is left out, and nearest upsampling with a 3x3 convolution is one transposed convolution with a 4x4
kernel, which multiplies 4/9 as often: of every output's nine inputs, at most four differ.
"""

import copy
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

_SCORES = 2**22
"""of attention at once: 8 MiB in bfloat16"""


def lean(module: Module, *, attention: bool = False) -> Module:
    """A twin for inference alone, which shares the weights that are not merged; what is not known is left as it is.

    `attention` takes plain products for it where it runs on a CPU: see `LeanAttention`.
    """
    twin = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, LeanGroupNorm(child))
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if _is_plain_block(child):
                setattr(parent, name, LeanResnetBlock(child))
            elif _is_plain_upsampling(child):
                setattr(parent, name, MergedUpsampling(child))
            elif attention and _is_plain_attention(child):
                setattr(parent, name, LeanAttention(child))
            elif name == "conv_act" and isinstance(child, nn.SiLU):  # of what the last normalisation has made
                child.inplace = True
    return twin


class LeanGroupNorm(nn.Module):
    """`nn.GroupNorm` with its own weights."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, inputs: Tensor) -> Tensor:
        norm = self.norm
        if not inputs.is_cuda or inputs.dim() != 4:
            return F.group_norm(inputs, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return spread_group_norm(inputs, norm.num_groups, norm.weight, norm.bias, norm.eps)


class LeanResnetBlock(nn.Module):
    """diffusers' `ResnetBlock2D` without time embedding, with its own layers."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.conv_shortcut = block.conv_shortcut
        self.output_scale_factor = float(block.output_scale_factor)

    def forward(self, inputs: Tensor, temb: None = None) -> Tensor:
        assert temb is None
        hidden: Tensor = F.silu(self.norm1(inputs), inplace=True)
        hidden = self.conv1(hidden)
        hidden = F.silu(self.norm2(hidden), inplace=True)
        hidden = self.conv2(hidden)
        hidden += inputs if self.conv_shortcut is None else self.conv_shortcut(inputs)
        if self.output_scale_factor != 1:
            hidden /= self.output_scale_factor
        return hidden


class MergedUpsampling(nn.Module):
    """Nearest upsampling by two and a 3x3 convolution with margins of zeros, as one."""

    def __init__(self, layer: Upsample2D) -> None:
        super().__init__()
        self.weight = nn.Parameter(merged_kernel(layer.conv.weight.detach()), requires_grad=False)
        self.bias = layer.conv.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv_transpose2d(inputs, self.weight, self.bias, stride=2, padding=1)


class LeanAttention(nn.Module):
    """diffusers' `Attention` of one head over the positions of an image, with its own layers.

    As two products with all scores of some rows between them. torch's kernel for a CPU never has more than a few scores
    at once and takes four times as long in bfloat16; but it has them in float32, and here they are rounded.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.group_norm = attention.group_norm
        self.to_q, self.to_k, self.to_v, self.to_out = attention.to_q, attention.to_k, attention.to_v, attention.to_out
        self.rescale_output_factor = float(attention.rescale_output_factor)

    def forward(self, inputs: Tensor, temb: None = None) -> Tensor:
        assert temb is None
        places = self.group_norm(inputs.flatten(2)).transpose(1, 2)
        query, key, value = self.to_q(places), self.to_k(places), self.to_v(places)
        if inputs.is_cuda:
            attended = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        else:
            attended = attend(query, key, value)
        outputs: Tensor = self.to_out[0](attended).transpose(1, 2).unflatten(2, inputs.shape[2:])
        outputs += inputs
        if self.rescale_output_factor != 1:
            outputs /= self.rescale_output_factor
        return outputs


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B,N,C] each => softmax(query key^T / sqrt(C)) value, by as many rows of scores as have `_SCORES`."""
    places, channels = query.shape[1:]
    rows = max(1, _SCORES // places)
    outputs = torch.empty_like(value)
    for first in range(0, places, rows):
        some = query[:, first : first + rows]
        scores = torch.baddbmm(some.new_zeros(1, 1, 1), some, key.transpose(1, 2), beta=0, alpha=channels**-0.5)
        outputs[:, first : first + rows] = torch.bmm(scores.softmax(-1), value)
    return outputs


def merged_kernel(kernel: Tensor) -> Tensor:
    """[C',C,3,3] => [C,C',4,4]: the transposed convolution of stride 2 that repeats each value 2x2 and convolves.

    To repeat is a transposed convolution with 2x2 ones, and two in a row have the full convolution of their kernels.
    """
    flipped = kernel.transpose(0, 1).flip(2, 3)
    padded = F.pad(flipped, (1, 1, 1, 1))
    rows = padded[:, :, :-1] + padded[:, :, 1:]
    return (rows[..., :-1] + rows[..., 1:]).contiguous()


def spread_group_norm(inputs: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`F.group_norm` of [B,C,H,W] for a GPU: torch's gives each group to one multiprocessor, and most of them idle.

    Sums are float32, and the variance is the mean square less the squared mean: a group whose mean is a hundred times
    its deviation is left with three digits, as many as half precision has. What is applied has the inputs' precision.
    """
    batch, channels = inputs.shape[:2]
    width = channels // groups
    plain = inputs.is_contiguous()
    grouped = inputs.view(batch, groups, -1) if plain else inputs.permute(0, 2, 3, 1).reshape(batch, -1, groups, width)
    dims = [2] if plain else [1, 3]
    count = inputs[0].numel() // groups
    mean = grouped.sum(dims, dtype=torch.float32) / count
    square = torch.linalg.vector_norm(grouped, dim=dims, dtype=torch.float32).square() / count
    deviation = (square - mean.square()).clamp(min=0).add(eps).rsqrt()
    scale = deviation.repeat_interleave(width, 1) * weight.float()
    shift = bias.float() - mean.repeat_interleave(width, 1) * scale
    scale, shift = (each.to(inputs.dtype)[:, :, None, None] for each in (scale, shift))
    return torch.addcmul(shift, inputs, scale)


def _is_plain_block(module: nn.Module) -> TypeGuard[ResnetBlock2D]:
    if not isinstance(module, ResnetBlock2D) or module.training:
        return False
    alone = all(part is None for part in (module.time_emb_proj, module.upsample, module.downsample))
    norms = all(isinstance(norm, LeanGroupNorm) for norm in (module.norm1, module.norm2))
    return alone and norms and isinstance(module.nonlinearity, nn.SiLU) and module.time_embedding_norm != "scale_shift"


def _is_plain_attention(module: nn.Module) -> TypeGuard[Attention]:
    if not isinstance(module, Attention) or not isinstance(module.group_norm, LeanGroupNorm) or module.training:
        return False
    others = (module.spatial_norm, module.norm_q, module.norm_k, module.norm_cross, module.add_k_proj)
    return module.heads == 1 and module.residual_connection and not any(others)


def _is_plain_upsampling(module: nn.Module) -> TypeGuard[Upsample2D]:
    if not isinstance(module, Upsample2D) or module.norm is not None or not (module.use_conv and module.interpolate):
        return False
    layer = getattr(module, "conv", None)
    kind = None if layer is None else (type(layer), layer.kernel_size, layer.stride, layer.padding, layer.padding_mode)
    return kind == (nn.Conv2d, (3, 3), (1, 1), (1, 1), "zeros")
