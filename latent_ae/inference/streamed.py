"""A side of a model over an image of any size, in strips of rows: what the whole image at once gives, in less memory.

It is no approximation: a convolution sees the rows around those that it gives, a normalisation adds up the whole image
before it changes any of it, and attention, at the lowest resolution, sees all positions. Sums are taken in another
order, nothing else.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from latent_ae.inference.diffusers_internals import (
    ResnetParts,
    attention_parts,
    downsampling_conv,
    layers_of,
    resnet_parts,
    upsampling_conv,
)
from latent_ae.inference.fused import (
    FusedAttention,
    FusedGroupNorm,
    FusedResnetBlock,
    MergedUpsampling,
    merged_kernel,
)
from latent_ae.inference.sides import DecoderSide, EncoderSide
from latent_ae.inference.strip_layers import Activation, Attended, Block, Doubling, Final, Halving, Layer, Wanted
from latent_ae.inference.strips import Convolved, Rows, Stored, Tick, store
from latent_ae.inference.winograd import WinogradConv

KEPT_SHARE = 0.5
"""of a second activation as large as the largest that a block gives, for what is not computed twice"""


class Work(NamedTuple):
    """What the layers take for an image, in their order."""

    most: int
    """values of the largest output of a block, which is kept whatever is done to save memory"""
    products: list[int]


class StreamedSide(nn.Module):
    """An `EncoderSide` or `DecoderSide` in strips, with its weights; `streamed` makes it."""

    def __init__(self, side: EncoderSide | DecoderSide, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.side = side
        self.channels = side.channels
        self.layers = layers
        self.kernels = nn.ParameterList([layer.kernel for layer in layers if isinstance(layer, Doubling)])
        self.kept_share = KEPT_SHARE

    def forward(self, inputs: Tensor, tick: Tick = lambda _: None) -> Tensor:
        """As the side's own: [B, ...] in channels-last order, image by image.

        `tick` is called after each strip with the share of the work that it was; what it raises ends the work.
        """
        images = inputs.split(1)
        return torch.cat([self._whole(image, _part(tick, 1 / len(images))) for image in images])

    def _last(self, image: Tensor, tick: Tick) -> tuple[Rows, Stored]:
        """All but the last convolution of one image, whose rows are computed when they are asked for; and what they are
        computed from.
        """
        coder = self.side.encoder if isinstance(self.side, EncoderSide) else self.side.decoder
        source: Rows = Stored([image])
        if isinstance(self.side, DecoderSide) and self.side.post_quant_conv is not None:
            source = Convolved(source, self.side.post_quant_conv)
        given = Activation(Convolved(source, coder.conv_in), Stored([image]), None)
        work = self.work(*image.shape[2:])
        room = int((1 + self.kept_share) * work.most)
        for place, layer in enumerate(self.layers):
            after = self.layers[place + 1].first_norm if place + 1 < len(self.layers) else None
            part = work.products[place] / sum(work.products)
            given = layer.run(given, Wanted(after, room, _part(tick, part)))
        if isinstance(self.side, EncoderSide) and self.side.quant_conv is not None:
            return Convolved(given.source, self.side.quant_conv), given.stored
        return given.source, given.stored

    def work(self, height: int, width: int) -> Work:
        """For an input of this size."""
        most, products = 0, []
        for layer in self.layers:
            height, width, values, count = layer.cost(height, width)
            most = max(most, values)
            products.append(count)
        return Work(most, products)

    def _whole(self, image: Tensor, tick: Tick) -> Tensor:
        rows, read_last = self._last(image, tick)
        return store(rows, None, lambda _: tick(0), [read_last])[0].whole()


def streamed(side: EncoderSide | DecoderSide) -> StreamedSide | None:
    """The side in strips, with its weights; None for one of other layers than the stock autoencoders have.

    The side may be fused, and is in the format that it runs in.
    """
    coder = side.encoder if isinstance(side, EncoderSide) else side.decoder
    if (modules := layers_of(coder)) is None:
        return None
    if (norm := _group_norm(coder.conv_norm_out)) is None or not isinstance(coder.conv_act, nn.SiLU):
        return None
    layers = [_layer(module) for module in modules]
    known = [layer for layer in layers if layer is not None]
    return StreamedSide(side, [*known, Final(norm, coder.conv_out)]) if len(known) == len(layers) else None


def _part(tick: Tick, part: float) -> Tick:
    return lambda share: tick(share * part)


def _layer(module: nn.Module) -> Layer | None:
    """What a layer of the stock or the fused side does; None for one that is not known."""
    if isinstance(module, FusedResnetBlock):
        parts: ResnetParts | FusedResnetBlock | None = module
    else:
        parts = resnet_parts(module)
    if parts is not None:
        return _block(parts)
    if (conv := downsampling_conv(module)) is not None:
        return Halving(conv)
    if isinstance(module, MergedUpsampling):
        return Doubling(module.weight, module.bias)
    if (conv := upsampling_conv(module)) is not None:
        kernel = merged_kernel(conv.weight.detach()).contiguous(memory_format=torch.channels_last)
        return Doubling(nn.Parameter(kernel, requires_grad=False), conv.bias)
    return _attention(module)


def _block(parts: ResnetParts | FusedResnetBlock) -> Block | None:
    norm1, norm2 = _group_norm(parts.norm1), _group_norm(parts.norm2)
    conv1, conv2, shortcut = parts.conv1, parts.conv2, parts.shortcut
    if norm1 is None or norm2 is None or not _is_plain(conv1) or not _is_plain(conv2):
        return None
    if shortcut is not None and type(shortcut) is not nn.Conv2d:
        return None
    return Block(norm1, conv1, norm2, conv2, shortcut, parts.scale)


def _is_plain(conv: nn.Module) -> TypeGuard[nn.Conv2d | WinogradConv]:
    return type(conv) in (nn.Conv2d, WinogradConv)


def _attention(module: nn.Module) -> Attended | None:
    if (parts := attention_parts(module)) is not None:
        module = FusedAttention(parts, rounded=False)
    return Attended(module) if isinstance(module, Attention | FusedAttention) else None


def _group_norm(norm: nn.Module) -> nn.GroupNorm | None:
    norm = norm.norm if isinstance(norm, FusedGroupNorm) else norm
    return norm if isinstance(norm, nn.GroupNorm) else None
