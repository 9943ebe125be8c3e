"""Start weights with which a stock autoencoder already is a linear codec.

Diffusers' default start leaves a small autoencoder thousands of steps from the picture: group normalisation removes
each image's contrast and brightness, and the residual blocks begin as noise. Nothing about the architecture is changed
here, only the weights it starts from:

    encoder   pixels -> blocks of factor x factor pixels -> their first principal components      (the latents' means)
    decoder   latents -> mean colour of each block -> smooth interpolation                        (a blurred picture)

- The second convolution of every residual block is zero, so that each block begins as its skip path (as in Fixup,
  Zhang et al. 2019).
- The last two channels of every level are constants, +sqrt(C) and -sqrt(C). They dominate the variance over which a
  one-group normalisation divides, about 2 + 0.3, so that it divides every image by nearly the same number.
- Before the output convolutions each value stands twice, with either sign: silu(a) - silu(-a) = a makes them linear.

All other channels keep their random weights, made smaller, for training to use.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.errors import ModelError

_VALUE_SCALE = 0.8
"""standard deviation of a principal component in the latents"""
_SMALLEST_DEVIATION = 0.08
_NORMALISATION = (2.0 + 0.3) ** 0.5
"""what a normalisation divides by, with the two constants and values of mean square about 0.3"""
_RANDOM_CHANNELS = 4
"""channels of a level that stay random, at least"""

Position = tuple[int, int, int]
"""(row, column, colour) within a block"""


@torch.no_grad()
def zero_residuals(model: Autoencoder) -> None:
    """Let every residual block and attention begin as its skip path, in place: their last layers become zero."""
    for module in model.modules():
        name = {"ResnetBlock2D": "conv2", "Attention": "to_out.0"}.get(type(module).__name__)
        if name is not None:
            last = module.get_submodule(name)
            last.get_parameter("weight").zero_()
            last.get_parameter("bias").zero_()


@torch.no_grad()
def set_start_logvar(model: AutoencoderKL, logvar: float) -> None:
    """Shift the log-variance that a freshly built model's encoder gives by `logvar`, in place."""
    last = model.encoder.conv_out if model.quant_conv is None else model.quant_conv
    last.bias[model.config["latent_channels"] :] += logvar


@torch.no_grad()
def linear_start(model: Autoencoder, pixels: Tensor, *, whiten: bool = True) -> None:
    """Set the weights of a freshly built model in place.

    Args:
        model: with `norm_num_groups` 1, widths that grow from level to level, and room at every level but the last
            for the pixels of a block.
        pixels: [N,C,H,W] training images in [-1, 1], from which the principal components are taken; sides are
            multiples of the model's factor.
        whiten: give every component the same spread, as a posterior with one prior for all or a grid of codes wants
            it; otherwise distances between latents are those between the pixels, as a free codebook wants it.

    Raises ModelError if the model has no room for it.
    """
    widths = list(model.config["block_out_channels"])
    channels, latents = model.config["in_channels"], model.config["latent_channels"]
    _check_room(model, widths, channels, latents)
    zero_residuals(model)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight[-2:] = 0  # no normalisation passes a constant on
    factor = 2 ** (len(widths) - 1)
    deviations, components = _principal_components(pixels, factor)
    kept = _start_encoder(model, widths, deviations, components)
    scales = torch.ones(latents) if whiten else deviations[:latents] / deviations[0]
    for convolution, diagonal in ((model.quant_conv, scales), (model.post_quant_conv, 1.0 / scales)):
        if convolution is not None:
            convolution.bias.zero_()
            convolution.weight.copy_(torch.eye(convolution.out_channels)[:, :, None, None])
            convolution.weight[:latents, :latents, 0, 0] = torch.diag(diagonal)
    assert kept >= latents
    means = components[:, :latents].reshape(factor * factor, channels, latents).mean(0)
    _start_decoder(model, widths, means * deviations[:latents] / _VALUE_SCALE)


def _start_encoder(model: Autoencoder, widths: list[int], deviations: Tensor, components: Tensor) -> int:
    """Pixels -> principal components of blocks. Returns how many of them reach the last level."""
    encoder, latents = model.encoder, model.config["latent_channels"]
    channels, last = model.config["in_channels"], len(widths) - 2
    factor = 2 ** (last + 1)
    encoder.conv_in.bias.zero_()
    encoder.conv_in.weight[:channels] = 0
    _pass_on(encoder.conv_in, channels)
    _hold_constants(encoder.conv_in)
    # Each downsampling gathers four positions, until a position holds all pixels of its block.
    positions: list[Position] = [(0, 0, colour) for colour in range(channels)]
    for level, block in enumerate(encoder.down_blocks[:-1]):
        gather = block.downsamplers[0].conv
        gather.bias.zero_()
        gather.weight.mul_(0.5)
        taps = [(dy, dx) for dy in (0, 1) for dx in (0, 1)]
        gathered = [(y + (dy << level), x + (dx << level), colour) for dy, dx in taps for y, x, colour in positions]
        kept = min(len(gathered), widths[level] - 2 - _RANDOM_CHANNELS) if level == last else len(gathered)
        gather.weight[:kept] = 0
        for place, (y, x, colour) in enumerate(gathered):
            (dy, dx), source = taps[place // len(positions)], place % len(positions)
            if level == last:
                row = components[(y * factor + x) * channels + colour, :kept]
                gather.weight[:kept, source, dy, dx] = row / deviations[:kept] * _VALUE_SCALE
            else:
                gather.weight[place, source, dy, dx] = 1
        _ignore_constants(gather)
        _hold_constants(gather)
        widen = encoder.down_blocks[level + 1].resnets[0].conv_shortcut
        widen.bias.zero_()
        widen.weight[: kept + (latents if level == last else 0)] = 0
        _pass_on(widen, kept)
        if level == last:
            _pass_on(widen, latents, -1, start=kept)
        _ignore_constants(widen)
        _hold_constants(widen)
        positions = gathered
    out = encoder.conv_out
    out.bias.zero_()
    out.weight[:latents] = 0
    _pass_on(out, latents, _NORMALISATION)
    _pass_on(out, latents, -_NORMALISATION, source=kept)
    out.weight[latents:].mul_(0.03)
    return kept


def _start_decoder(model: Autoencoder, widths: list[int], colours: Tensor) -> None:
    """Latents -> smoothly interpolated `colours` [C, c] @ latents."""
    decoder, (channels, latents) = model.decoder, colours.shape
    decoder.conv_in.bias.zero_()
    decoder.conv_in.weight[:latents] = 0
    _pass_on(decoder.conv_in, latents)
    _hold_constants(decoder.conv_in)
    tent = torch.tensor([0.25, 0.5, 0.25])
    for level, block in enumerate(decoder.up_blocks[:-1]):
        smooth = block.upsamplers[0].conv
        smooth.bias.zero_()
        smooth.weight.mul_(0.5)
        carried = (smooth.out_channels - 2) // 2
        smooth.weight[:carried].mul_(0.2)
        smooth.weight[range(carried), range(carried)] += tent[:, None] * tent
        _ignore_constants(smooth)
        _hold_constants(smooth)
        narrow = decoder.up_blocks[level + 1].resnets[0].conv_shortcut
        narrow.bias.zero_()
        if level < len(widths) - 2:
            narrow.weight[:latents] = 0
            _pass_on(narrow, latents)
        else:
            narrow.weight[: 2 * channels] = 0
            narrow.weight[:channels, :latents, 0, 0] = colours
            narrow.weight[channels : 2 * channels, :latents, 0, 0] = -colours
        _ignore_constants(narrow)
        _hold_constants(narrow)
    out = decoder.conv_out
    out.bias.zero_()
    out.weight.mul_(0.2)
    out.weight[:, : 2 * channels] = 0
    _pass_on(out, channels, _NORMALISATION)
    _pass_on(out, channels, -_NORMALISATION, source=channels)
    _ignore_constants(out)


def _pass_on(convolution: nn.Conv2d, count: int, factor: float = 1, *, source: int = 0, start: int = 0) -> None:
    """Its outputs from `start` on take `factor` times the inputs from `source` on, through the middle of the kernel."""
    middle = convolution.kernel_size[0] // 2
    convolution.weight[range(start, start + count), range(source, source + count), middle, middle] = factor


def _hold_constants(convolution: nn.Conv2d) -> None:
    """Its last two channels give +sqrt(C) and -sqrt(C), whatever comes in."""
    size = convolution.out_channels**0.5
    assert convolution.bias is not None
    convolution.weight[-2:] = 0
    convolution.bias[-2:] = torch.tensor([size, -size])


def _ignore_constants(convolution: nn.Conv2d) -> None:
    convolution.weight[:, -2:] = 0


def _principal_components(pixels: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Root mean square along, and directions of, the principal components of blocks: [d] and [d, d].

    d = factor * factor * C, in the order row, column, colour. The second moment is taken about 0 and not about the
    mean: grey is 0, and the latents of a grey image should be too.
    """
    count, channels, height, width = pixels.shape
    blocks = pixels.double().reshape(count, channels, height // factor, factor, width // factor, factor)
    vectors = blocks.permute(0, 2, 4, 3, 5, 1).reshape(-1, factor * factor * channels)
    moments, directions = torch.linalg.eigh(vectors.T @ vectors / len(vectors))
    order = moments.argsort(descending=True)
    directions = directions[:, order]
    directions = directions * torch.where(directions.sum(0) < 0, -1.0, 1.0)  # eigh leaves the sign open
    deviations = moments[order].clamp(min=_SMALLEST_DEVIATION**2).sqrt()
    return deviations.float(), directions.float()


def _check_room(model: Autoencoder, widths: list[int], channels: int, latents: int) -> None:
    if model.config["norm_num_groups"] != 1:
        raise ModelError(f"model.start linear needs model.norm_num_groups 1, got {model.config['norm_num_groups']}")
    if len(widths) < 2 or sorted(set(widths)) != widths:
        raise ModelError(f"model.start linear needs two levels or more of growing widths, got {tuple(widths)}")
    if model.config.get("vq_embed_dim") not in (None, latents):
        raise ModelError(
            f"model.start linear needs codes of as many channels as the latents, got {model.config['vq_embed_dim']} "
            f"and {latents}: leave out bottleneck.code_channels"
        )
    values = channels * 4 ** (len(widths) - 1)
    if latents > values:
        raise ModelError(
            f"model.start linear needs no more latent channels than the {values} values of a block, got {latents}"
        )
    needed = [channels * 4 ** (level + 1) + 2 for level in range(len(widths) - 2)]
    needed += [max(2 * channels, latents) + 2 + _RANDOM_CHANNELS, 2 * latents + 2]
    needed[-1] += widths[-2] - 2 - _RANDOM_CHANNELS
    short = [(have, need) for have, need in zip(widths, needed, strict=True) if have < need]
    if short:
        raise ModelError(
            f"model.start linear needs widths of at least {tuple(needed)} here, got {tuple(widths)}: give "
            "model.block_out_channels, or model.start random"
        )
