"""3x3 convolutions with a quarter of the multiplications: F(4x4, 3x3) of Lavin and Gray (2016), for CPUs in float32.

An output tile Y of 4x4 values is A^T [(G w G^T) * (B^T d B)] A, of the kernel w and the 6x6 inputs d below it, where *
is by element and sums over the channels. That makes 36 matrix products of all tiles, which is what CPUs are best at.
torch's own kernels for a CPU are direct. Sums in another order differ by some 1e-6 of the values.
"""

import copy
from itertools import islice, product
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

_LEAST_CHANNELS = 96
"""with fewer, the way there and back costs more than is saved"""
_LEAST_TILES = 128
"""with fewer, the kernel's own transformation does"""

_B = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_A = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
# Both axes at once: rows are of the flattened results.
_INPUTS, _KERNEL, _OUTPUTS = (torch.kron(each, each).float() for each in (_B, _G, _A))


class WinogradConv2d(nn.Module):
    """A convolution that `fits`, with its own weights."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.shape[2] * inputs.shape[3] < 16 * _LEAST_TILES:
            outputs: Tensor = self.convolution(inputs)
            return outputs
        return convolve(inputs, self.convolution.weight, self.convolution.bias)


def fits(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a 3x3 convolution over every position, wide enough to gain."""
    return (
        type(module) is nn.Conv2d
        and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
        and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
        and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
    )


def with_winograd(module: Module) -> Module:
    """The same module on the same weights, with its convolutions that fit replaced."""
    twin = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if fits(child):
                setattr(parent, name, WinogradConv2d(child))
    return twin


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[B,C,H,W] => [B,C',H,W] in channels-last order, as `F.conv2d(inputs, weight, bias, padding=1)`."""
    batch, channels, height, width = inputs.shape
    rows, columns = -(-height // 4), -(-width // 4)
    margins = (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1)
    padded = F.pad(inputs.permute(0, 2, 3, 1), margins).contiguous()
    kernel = torch.mm(_KERNEL.to(weight.device), weight.reshape(-1, 9).T).view(36, -1, channels).transpose(1, 2)
    out = kernel.shape[2]
    outputs = inputs.new_empty(batch, 4 * rows, 4 * columns, out)
    # As many rows of tiles at once as take half the bytes of the kernel: more fall out of the cache, and with fewer the
    # kernel is read too often.
    step = max(1, channels * out // 2 // (columns * max(channels, out)))
    bands = product(range(batch), range(0, rows, step))
    # Where memory is predicted one band is enough: it takes what each of them takes.
    for image, first in islice(bands, 1) if inputs.is_meta else bands:
        count = min(step, rows - first)
        values = _band(padded[image, 4 * first : 4 * (first + count) + 2], kernel, bias)
        target = outputs[image, 4 * first : 4 * (first + count)].view(count, 4, columns, 4, out)
        target.copy_(values.view(4, 4, count, columns, out).permute(2, 0, 3, 1, 4))
        del values  # or it would live beside the next
    return outputs[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _band(inputs: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """[4n+2,4m+2,C] with the kernel [36,C,C'] => [16,n*m,C']: the values of each tile's 16 places."""
    channels, out = kernel.shape[1:]
    tiles = inputs.unfold(0, 6, 4).unfold(1, 6, 4).permute(3, 4, 0, 1, 2).reshape(36, -1)
    transformed = torch.mm(_INPUTS.to(inputs.device), tiles).view(36, -1, channels)
    del tiles
    products = torch.bmm(transformed, kernel).view(36, -1)
    values = torch.mm(_OUTPUTS.to(inputs.device), products).view(16, -1, out)
    return values if bias is None else values.add_(bias)
