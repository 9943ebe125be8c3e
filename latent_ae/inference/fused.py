"""A side with fused layers for inference: the same weights and the same function in fewer passes over memory.

Memory is what is left to save once convolutions run at speed: on a CPU new tensors of a large image come from the
system page by page, which takes longer than what is computed in them. So what is read for the last time is overwritten,
a division by one is left out, and nearest upsampling with a 3x3 convolution is one transposed convolution with a 4x4
kernel, which multiplies 4/9 as often: of every output's nine inputs, at most four differ.
"""

import copy
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_ae.inference.diffusers_internals import (
    FINAL_ACTIVATION,
    AttentionParts,
    ResnetParts,
    attention_parts,
    resnet_parts,
    upsampling_conv,
)
from latent_ae.inference.winograd import WinogradConv, pays

Module = TypeVar("Module", bound=nn.Module)

_SCORES = 2**22
"""of attention at once: 8 MiB in bfloat16"""
_LEAST_QUERIES = 256
"""at once: keys and values are read again for each such part"""


def fuse(module: Module, *, attention: bool = False, winograd: bool = False) -> Module:
    """A copy for inference alone, which shares the weights that are not merged; unknown blocks stay as they are.

    `attention` replaces attention too: see `FusedAttention`. `winograd` replaces convolutions that it makes faster.
    """
    copied = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, FusedGroupNorm(child))
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if (block := resnet_parts(child)) is not None and _normalised(block.norm1, block.norm2):
                if winograd:
                    block = block._replace(conv1=_faster(block.conv1), conv2=_faster(block.conv2))
                setattr(parent, name, FusedResnetBlock(block))
            elif (conv := upsampling_conv(child)) is not None:
                setattr(parent, name, MergedUpsampling(conv))
            elif attention and (parts := attention_parts(child)) is not None and _normalised(parts.norm):
                setattr(parent, name, FusedAttention(parts, rounded=True))
            elif name == FINAL_ACTIVATION and isinstance(child, nn.SiLU):  # its input is not read again
                child.inplace = True
    return copied


def _faster(conv: nn.Module) -> nn.Module:
    return WinogradConv(conv) if isinstance(conv, nn.Conv2d) and pays(conv) else conv


def _normalised(*norms: nn.Module) -> bool:
    return all(isinstance(norm, FusedGroupNorm) for norm in norms)


class FusedGroupNorm(nn.Module):
    """`nn.GroupNorm` with its own weights."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, inputs: Tensor) -> Tensor:
        norm = self.norm
        if not inputs.is_cuda or inputs.dim() != 4:
            return F.group_norm(inputs, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return group_norm_by_sums(inputs, norm.num_groups, norm.weight, norm.bias, norm.eps)


class FusedResnetBlock(nn.Module):
    """diffusers' `ResnetBlock2D` without time embedding, with its own layers."""

    def __init__(self, block: ResnetParts) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2, self.shortcut, self.scale = block

    def forward(self, inputs: Tensor, temb: None = None) -> Tensor:
        assert temb is None
        hidden: Tensor = F.silu(self.norm1(inputs), inplace=True)
        hidden = self.conv1(hidden)
        hidden = F.silu(self.norm2(hidden), inplace=True)
        hidden = self.conv2(hidden)
        hidden += inputs if self.shortcut is None else self.shortcut(inputs)
        if self.scale != 1:
            hidden /= self.scale
        return hidden


class MergedUpsampling(nn.Module):
    """Nearest upsampling by two and a 3x3 convolution with margins of zeros, as one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(merged_kernel(conv.weight.detach()), requires_grad=False)
        self.bias = conv.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv_transpose2d(inputs, self.weight, self.bias, stride=2, padding=1)


class FusedAttention(nn.Module):
    """diffusers' `Attention` of one head over the positions of an image, with its own layers, some queries at a time.

    `rounded`, on a CPU, it is two products with the scores between them in the format of the inputs: twice as fast in
    bfloat16 as torch's kernel, whose scores are float32.
    """

    def __init__(self, attention: AttentionParts, *, rounded: bool) -> None:
        super().__init__()
        self.norm, self.query, self.key, self.value, self.output, self.scale = attention
        self.rounded = rounded

    def forward(self, inputs: Tensor, temb: None = None, tick: Callable[[float], None] = lambda _: None) -> Tensor:
        assert temb is None
        places = self.norm(inputs.flatten(2)).transpose(1, 2)
        query, key, value = self.query(places), self.key(places), self.value(places)
        kernel = _products if self.rounded and not inputs.is_cuda else _library
        outputs: Tensor = self.output(attend(query, key, value, kernel, tick)).transpose(1, 2)
        outputs = outputs.unflatten(2, inputs.shape[2:])
        outputs += inputs
        if self.scale != 1:
            outputs /= self.scale
        return outputs


def _products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.baddbmm(query.new_zeros(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), value)


def _library(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel: Callable[[Tensor, Tensor, Tensor], Tensor] = _products,
    tick: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """[B,N,C] each => softmax(query key^T / sqrt(C)) value, by as many queries as have `_SCORES`."""
    places = query.shape[1]
    rows = max(_LEAST_QUERIES, _SCORES // places)
    if rows >= places:
        outputs = kernel(query, key, value)
        tick(1)
        return outputs
    outputs = torch.empty_like(value)
    # On tensors without values, where memory is predicted, all parts are alike.
    parts = zip(query.split(rows, 1), outputs.split(rows, 1), strict=True)
    for some, into in islice(parts, 1 if value.is_meta else None):
        into.copy_(kernel(some, key, value))
        tick(some.shape[1] / places)
    return outputs


def merged_kernel(kernel: Tensor) -> Tensor:
    """[C',C,3,3] => [C,C',4,4]: the transposed convolution of stride 2 that repeats each value 2x2 and convolves.

    To repeat is a transposed convolution with 2x2 ones, and two in a row have the full convolution of their kernels.
    """
    flipped = kernel.transpose(0, 1).flip(2, 3)
    padded = F.pad(flipped, (1, 1, 1, 1))
    rows = padded[:, :, :-1] + padded[:, :, 1:]
    return (rows[..., :-1] + rows[..., 1:]).contiguous()


def group_norm_by_sums(inputs: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
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
