"""Both sides of a model as graphs of tensors to tensors, without sampling: what ONNX and torch.export are given.

KL  encoder: pixels [B,C,H,W] => moments [B,2c,h,w]     decoder: latents [B,c,h,w] => pixels
VQ  encoder: pixels [B,C,H,W] => codes [B,h,w] int64    decoder: codes [B,h,w]     => pixels
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from latent_ae.export.proof import Comparison, Probe, compare_close, compare_encoded
from latent_ae.inference.diffusers_internals import upsampling_conv
from latent_ae.inference.sides import DecoderSide, EncoderSide
from latent_ae.models import Autoencoder, factor_of


class CodeEncoder(nn.Module):
    """Pixels => the codes nearest to their vectors."""

    def __init__(self, side: EncoderSide, embedding: Tensor) -> None:
        super().__init__()
        self.side = side
        self.embedding = nn.Parameter(embedding.detach(), requires_grad=False)

    def forward(self, sample: Tensor) -> Tensor:
        vectors = self.side(sample).permute(0, 2, 3, 1)
        # |v - e|^2 without |v|^2, which is the same for all codes.
        distances = self.embedding.square().sum(dim=1) - 2 * (vectors @ self.embedding.T)
        codes: Tensor = distances.argmin(dim=-1)
        return codes


class CodeDecoder(nn.Module):
    """Codes => pixels."""

    def __init__(self, side: DecoderSide, embedding: Tensor) -> None:
        super().__init__()
        self.side = side
        self.embedding = nn.Parameter(embedding.detach(), requires_grad=False)

    def forward(self, codes: Tensor) -> Tensor:
        pixels: Tensor = self.side(F.embedding(codes, self.embedding).permute(0, 3, 1, 2).contiguous())
        return pixels


class _Upsample(nn.Module):
    """What diffusers' Upsample2D computes, without its case for batches of 64 and more, which limits a graph."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden: Tensor, output_size: int | None = None) -> Tensor:
        assert output_size is None
        enlarged: Tensor = self.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return enlarged


def sides(model: Autoencoder) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a model, in evaluation mode; they share its weights, the model itself is unchanged."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, memo).eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if (conv := upsampling_conv(child)) is not None:
                setattr(module, name, _Upsample(conv))
    encoder, decoder = EncoderSide(model), DecoderSide(model)
    if isinstance(model, AutoencoderKL):
        return encoder.eval(), decoder.eval()
    embedding = model.quantize.embedding.weight
    return CodeEncoder(encoder, embedding).eval(), CodeDecoder(decoder, embedding).eval()


def programs(model: Autoencoder, size: tuple[int, int] | None = None) -> tuple[ExportedProgram, ExportedProgram]:
    """Encoder and decoder as programs with free batch, height and width.

    With a `size`, they accept only one image of that height and width in pixels, both multiples of the model's factor.
    """
    factor, is_kl = factor_of(model), isinstance(model, AutoencoderKL)
    encoder, decoder = sides(model)
    # Two of each: torch.export takes a size of 1 for a constant. Height and width differ, or they would be taken for
    # one and the same.
    count, (height, width) = (2, (4 * factor, 6 * factor)) if size is None else (1, size)
    grid = (height // factor, width // factor)
    pixels = torch.zeros(count, int(model.config["in_channels"]), height, width)
    latents = (
        torch.zeros(count, int(model.config["latent_channels"]), *grid)
        if is_kl
        else torch.zeros(count, *grid, dtype=torch.int64)
    )
    first = 2 if is_kl else 1
    free = [(2, 3), (first, first + 1)] if size is None else [None, None]
    return program_of(encoder, pixels, free=free[0]), program_of(decoder, latents, free=free[1])


def program_of(module: nn.Module, example: Tensor, *, free: tuple[int, int] | None) -> ExportedProgram:
    """A module as a program for batches like `example`; `free`: axes of any size beside the first, None: no axis."""
    # AUTO: torch derives what sides must be multiples of; said by hand it contradicts what the layers ask for.
    dynamic = None if free is None else (dict.fromkeys((0, *free), Dim.AUTO),)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=dynamic)
    for node in list(program.graph.nodes):
        node.meta.pop("stack_trace", None)  # paths of this machine
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            # Attention asks for the example's type and device, and it could run nowhere else.
            program.graph.erase_node(node)
    program.graph_module.recompile()
    # With parameters that ask for gradients, every call would keep what these need.
    program.state_dict.update(
        {name: nn.Parameter(tensor.detach(), requires_grad=False) for name, tensor in program.named_parameters()}
    )
    return program


def compare_graphs(
    source: Autoencoder, probes: Sequence[Probe], encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
) -> list[Comparison]:
    """Both sides as a runtime computes them, within what is close."""
    comparisons: list[Comparison] = []
    for probe in probes:
        answer = probe.answer
        comparisons += compare_encoded(probe, encode(probe.pixels), source)
        latents = answer.latents if answer.codes is None else answer.codes
        comparisons.append(compare_close("decoder's pixels", probe, decode(latents), answer.pixels))
    return comparisons
