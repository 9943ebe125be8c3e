"""3x3 convolutions by Winograd's algorithm: 16 products in place of 36 for every 2x2 outputs.

inputs in tiles of 4x4 --additions--> 16 planes --a matrix product each--> 16 planes --additions--> outputs of 2x2

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), with the matrices

    B = [1  0 -1  0]      G = [1    0   0]      A = [1  1  1  0]
        [0  1  1  0]          [1/2  1/2 1/2]        [0  1 -1 -1]
        [0 -1  1  0]          [1/2 -1/2 1/2]
        [0  1  0 -1]          [0    0   1]

It pays where there are many channels: the additions grow with them, the products with their square. In float32 it is as
accurate as the direct sums; in bfloat16, where the planes are rounded, errors are two to three times as large.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_CHANNELS = 256
"""of inputs and outputs; with fewer the additions take as long as they save"""
_BAND_BYTES = 2**21
"""of inputs at one time, of which the planes take four times as many: they stay in a cache"""


def pays(conv: nn.Module) -> bool:
    """Whether it is a convolution that Winograd's algorithm computes faster."""
    if type(conv) is not nn.Conv2d or min(conv.in_channels, conv.out_channels) < LEAST_CHANNELS or conv.groups != 1:
        return False
    layout = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode)
    return layout == ((3, 3), (1, 1), (1, 1), (1, 1), "zeros")


class WinogradConv(nn.Module):
    """An `nn.Conv2d` of a kind that `pays` names, for inference."""

    kernel_size = (3, 3)

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.weight = nn.Parameter(_kernel_in_planes(conv.weight.detach()), requires_grad=False)
        """[16, C, C']"""
        self.bias = conv.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[B,C,H,W] => [B,C',H,W] in channels-last order."""
        height, width = inputs.shape[2:]
        return self._outputs(F.pad(inputs, (1, 1 + width % 2, 1, 1 + height % 2)), height, width)

    def between(self, inputs: Tensor) -> Tensor:
        """[B,C,H+2,W] => [B,C',H,W] for the rows between the first and the last, which are given."""
        height, width = inputs.shape[2] - 2, inputs.shape[3]
        return self._outputs(F.pad(inputs, (1, 1 + width % 2, 0, height % 2)), height, width)

    def _outputs(self, inputs: Tensor, height: int, width: int) -> Tensor:
        """[B,C,2h+2,2w+2] => the first rows and columns of 2h x 2w."""
        images = inputs.permute(0, 2, 3, 1)
        h, w = inputs.shape[2] // 2 - 1, inputs.shape[3] // 2 - 1
        outputs = images.new_empty(len(images), h, 2, w, 2, self.out_channels)
        band = min(h, max(1, _BAND_BYTES // (4 * w * self.in_channels * inputs.element_size())))
        scratch = images.new_empty(2, 16 * band * w * max(self.in_channels, self.out_channels))
        for image, into in zip(images, outputs, strict=True):
            # On tensors without values, where memory is predicted, all bands are alike.
            for first in range(0, 1 if inputs.is_meta else h, band):
                last = min(first + band, h)
                self._tiles(image[2 * first : 2 * last + 2], into[first:last], scratch)
        whole = outputs.view(len(images), 2 * h, 2 * w, self.out_channels)
        return whole[:, :height, :width].contiguous().permute(0, 3, 1, 2)

    def _tiles(self, rows: Tensor, into: Tensor, scratch: Tensor) -> None:
        """[2h+2,2w+2,C] => [h,2,w,2,C']; `scratch` has two places for 16 planes, each used twice."""
        (h, w), channels = (into.shape[0], into.shape[2]), rows.shape[-1]
        halves = _part(scratch[1], 4, h, 2 * w + 2, channels)
        _to_planes([rows[line::2][:h] for line in range(4)], halves)
        planes = _part(scratch[0], 4, 4, h, w, channels)
        _to_planes([halves[:, :, line::2][:, :, :w] for line in range(4)], planes.transpose(0, 1))
        products = _part(scratch[1], 4, 4, h, w, self.out_channels)
        torch.bmm(planes.view(16, h * w, channels), self.weight, out=products.view(16, h * w, self.out_channels))
        lines = _part(scratch[0], 2, 4, h, w, self.out_channels)
        _from_planes(products, lines)
        _from_planes(lines.transpose(0, 1), into.permute(3, 1, 0, 2, 4))
        if self.bias is not None:
            into += self.bias


def _part(scratch: Tensor, *shape: int) -> Tensor:
    return scratch[: math.prod(shape)].view(shape)


def _to_planes(lines: Sequence[Tensor], planes: Tensor) -> None:
    """B."""
    torch.sub(lines[0], lines[2], out=planes[0])
    torch.add(lines[1], lines[2], out=planes[1])
    torch.sub(lines[2], lines[1], out=planes[2])
    torch.sub(lines[1], lines[3], out=planes[3])


def _from_planes(planes: Tensor, lines: Tensor) -> None:
    """A."""
    torch.add(planes[1], planes[2], out=lines[0]).add_(planes[0])
    torch.sub(planes[1], planes[2], out=lines[1]).sub_(planes[3])


def _kernel_in_planes(kernel: Tensor) -> Tensor:
    """G along both sides of [C',C,3,3] => [16,C,C']."""
    for dim in (2, 3):
        one, two, three = kernel.unbind(dim)
        half, middle = (one + three) / 2, two / 2
        kernel = torch.stack([one, half + middle, half - middle, three], dim)
    return kernel.flatten(2).permute(2, 1, 0).contiguous()
