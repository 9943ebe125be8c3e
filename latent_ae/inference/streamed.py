"""A side of a model over an image of any size, in strips of rows: what the whole image at once gives, in less memory.

It is no approximation: a convolution sees the rows around those that it gives, a normalisation adds up the whole image
before it changes any of it, and attention, at the lowest resolution, sees all positions. Sums are taken in another
order, nothing else. One activation is kept at full size, and a part of a second one:

    x --norm1, silu, conv1--> h (its first rows are kept, others computed again) --norm2, silu, conv2, + x--> over x

An upsampled activation is never kept, as what it is made of has a quarter of its positions.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from latent_ae.inference.diffusers_internals import (
    ResnetParts,
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
from latent_ae.inference.strips import (
    Added,
    Convolved,
    Downsampled,
    Normalised,
    Rows,
    Stored,
    Sums,
    Upsampled,
    keep,
    measure,
    store,
)

KEPT_SHARE = 0.5
"""of the rows between the two convolutions of a block that are kept, and not computed twice"""


class Block(NamedTuple):
    """A residual block: norm1, SiLU, conv1, norm2, SiLU, conv2, plus the input or its 1x1 convolution, divided."""

    norm1: nn.GroupNorm
    conv1: nn.Conv2d
    norm2: nn.GroupNorm
    conv2: nn.Conv2d
    shortcut: nn.Conv2d | None
    scale: float


class Halving(NamedTuple):
    """A convolution that halves the image."""

    conv: nn.Conv2d


class Doubling(NamedTuple):
    """Nearest upsampling with its convolution, as one kernel; and with the next block's 1x1 shortcut after it."""

    kernel: Tensor
    bias: Tensor | None
    shortcut: tuple[Tensor, Tensor | None] | None = None


class Attended(NamedTuple):
    """Attention over all positions."""

    module: nn.Module


class Final(NamedTuple):
    """Normalisation, SiLU and the last convolution."""

    norm: nn.GroupNorm
    conv: nn.Conv2d


Layer = Block | Halving | Doubling | Attended | Final


class StreamedSide(nn.Module):
    """An `EncoderSide` or `DecoderSide` in strips, with its weights; `streamed` makes it."""

    def __init__(self, side: EncoderSide | DecoderSide, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.side = side
        self.channels = side.channels
        self.layers = layers
        kernels = [each for layer in layers if isinstance(layer, Doubling) for each in _tensors(layer)]
        self.kernels = nn.ParameterList(kernels)
        self.kept_share = KEPT_SHARE

    def forward(self, inputs: Tensor, tick: Callable[[float], None] | None = None) -> Tensor:
        """As the side's own: [B, ...] in channels-last order, image by image.

        `tick` is called after each layer with the share of the work that it was; what it raises ends the work.
        """
        return torch.cat([self._one(image, tick or (lambda _: None), len(inputs)) for image in inputs.split(1)])

    def _one(self, image: Tensor, tick: Callable[[float], None], images: int) -> Tensor:
        body = self.side.encoder if isinstance(self.side, EncoderSide) else self.side.decoder
        source: Rows = Stored(image)
        if isinstance(self.side, DecoderSide) and self.side.post_quant_conv is not None:
            source = Convolved(source, self.side.post_quant_conv)
        source = Convolved(source, body.conv_in)
        sums: Sums | None = None
        most, work = self._largest_and_work(*image.shape[2:])
        for place, layer in enumerate(self.layers):
            after = self.layers[place + 1] if place + 1 < len(self.layers) else None
            norm = after.norm1 if isinstance(after, Block) else after.norm if isinstance(after, Final) else None
            if isinstance(layer, Block):
                tensor, sums = self._block(source, sums, layer, norm)
                source = Stored(tensor)
            elif isinstance(layer, Halving):
                tensor, sums = store(Downsampled(source, layer.conv), norm)
                source = Stored(tensor)
            elif isinstance(layer, Doubling):
                source, sums = Upsampled(_whole(source), *layer), None
                if source.channels * source.height * source.width <= most:
                    tensor, sums = store(source, norm)
                    source = Stored(tensor)
            elif isinstance(layer, Attended):
                source, sums = Stored(layer.module(_whole(source).tensor)), None
            else:
                sums = measure(source, layer.norm) if sums is None else sums
                source = Convolved(Normalised(source, layer.norm, sums), layer.conv)
            tick(work[place] / sum(work) / images)
        if isinstance(self.side, EncoderSide) and self.side.quant_conv is not None:
            source = Convolved(source, self.side.quant_conv)
        return store(source, None)[0]

    def _largest_and_work(self, height: int, width: int) -> tuple[int, list[int]]:
        """Values of the largest output of a block, which is kept whatever is done to save memory; and how many products
        each layer takes.
        """
        largest, work, channels = 0, [], 0
        for layer in self.layers:
            places = height * width
            if isinstance(layer, Block):
                channels = layer.conv2.out_channels
                largest = max(largest, channels * places)
                work.append((layer.conv1.weight.numel() + layer.conv2.weight.numel()) * places)
            elif isinstance(layer, Doubling):
                height, width = 2 * height, 2 * width
                work.append(layer.kernel.numel() * places)
            elif isinstance(layer, Halving):
                height, width = height // 2, width // 2
                work.append(layer.conv.weight.numel() * height * width)
            elif isinstance(layer, Attended):
                work.append(2 * places * places * channels)
            else:
                work.append(layer.conv.weight.numel() * places)
        return largest, work

    def _block(
        self, source: Rows, sums: Sums | None, block: Block, after: nn.GroupNorm | None
    ) -> tuple[Tensor, Sums | None]:
        """A residual block's output, and its sums for the normalisation `after` it."""
        sums = measure(source, block.norm1) if sums is None else sums
        if block.shortcut is None and isinstance(source, Stored):
            # conv2 looks one row beyond its own, and conv1, where it is computed again, one row more.
            source = into = Stored(source.tensor, halo=2)
            first = Convolved(Normalised(source, block.norm1, sums), block.conv1)
            hidden: Rows
            hidden, hidden_sums = keep(first, block.norm2, round(self.kept_share * source.height))
            beside: Rows = source
        else:
            first = Convolved(Normalised(source, block.norm1, sums), block.conv1)
            tensor, hidden_sums = store(first, block.norm2)
            hidden = into = Stored(tensor, halo=1)
            beside = _shortcut(source, block.shortcut)
        second = Convolved(Normalised(hidden, block.norm2, hidden_sums), block.conv2)
        return store(Added(second, beside, block.scale), after, into)


def streamed(side: EncoderSide | DecoderSide) -> StreamedSide | None:
    """The side in strips, with its weights; None for one of other layers than the stock autoencoders have.

    The side may be fused, and is in the format that it runs in.
    """
    body = side.encoder if isinstance(side, EncoderSide) else side.decoder
    if (modules := layers_of(body)) is None:
        return None
    found = [_layer(module) for module in modules]
    norm, conv = _group_norm(body.conv_norm_out), body.conv_out
    if norm is None or not isinstance(body.conv_act, nn.SiLU):
        return None
    layers: list[Layer] = []
    for layer in [*found, Final(norm, conv)]:
        if layer is None:
            return None
        if isinstance(layer, Block) and layer.shortcut is not None and layers and isinstance(layers[-1], Doubling):
            layers[-1] = layers[-1]._replace(shortcut=_composed(layers[-1], layer.shortcut))
        layers.append(layer)
    return StreamedSide(side, layers)


def _layer(module: nn.Module) -> Layer | None:
    """What a layer of the stock or the fused side does; None for one that is not known."""
    if isinstance(module, FusedResnetBlock):
        parts: ResnetParts | FusedResnetBlock | None = module
    else:
        parts = resnet_parts(module)
    if parts is not None:
        norms = [_group_norm(norm) for norm in (parts.norm1, parts.norm2)]
        convs = [each for each in (parts.conv1, parts.conv2, parts.shortcut) if each is not None]
        if None in norms or not all(type(conv) is nn.Conv2d for conv in convs):
            return None
        return Block(norms[0], parts.conv1, norms[1], parts.conv2, parts.shortcut, parts.scale)  # type: ignore[arg-type]
    if (conv := downsampling_conv(module)) is not None:
        return Halving(conv)
    if isinstance(module, MergedUpsampling):
        return Doubling(module.weight, module.bias)
    if (conv := upsampling_conv(module)) is not None:
        return Doubling(_in_order(merged_kernel(conv.weight.detach())), conv.bias)
    return Attended(module) if isinstance(module, Attention | FusedAttention) else None


def _group_norm(norm: nn.Module) -> nn.GroupNorm | None:
    norm = norm.norm if isinstance(norm, FusedGroupNorm) else norm
    return norm if isinstance(norm, nn.GroupNorm) else None


def _tensors(layer: Doubling) -> list[nn.Parameter]:
    merged = [layer.kernel] if layer.shortcut is None else [layer.kernel, layer.shortcut[0], layer.shortcut[1]]
    return [each for each in merged if isinstance(each, nn.Parameter)]


def _whole(source: Rows) -> Stored:
    return source if isinstance(source, Stored) else Stored(store(source, None)[0])


def _shortcut(source: Rows, conv: nn.Module | None) -> Rows:
    if conv is None:
        return source
    if isinstance(source, Upsampled) and source.shortcut is not None:
        return Upsampled(source.source, *source.shortcut)
    assert isinstance(conv, nn.Conv2d)
    return Convolved(source, conv)


def _composed(doubling: Doubling, conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Kernel and bias of a transposed convolution followed by a 1x1 convolution, as one."""
    weight, dtype = conv.weight.detach()[:, :, 0, 0].double(), conv.weight.dtype
    kernel = torch.einsum("icyx,oc->ioyx", doubling.kernel.detach().double(), weight).to(dtype)
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    if doubling.bias is not None:
        bias = bias + weight @ doubling.bias.detach().double()
    return _in_order(kernel), nn.Parameter(bias.to(dtype), requires_grad=False)


def _in_order(kernel: Tensor) -> nn.Parameter:
    return nn.Parameter(kernel.contiguous(memory_format=torch.channels_last), requires_grad=False)
