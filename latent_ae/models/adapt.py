"""A loaded autoencoder made one of other image or latent channels: what fits is taken, the outer layers follow.

With encoder E and decoder D, the adapted model computes E(M x) and N D(z), with matrices M and N over image channels:

    colours kept    3 -> 4: M x = the first three channels, N y = y and 0        others are kept or dropped in order
    to grey         3 -> 1: M x = (x, x, x), N y = the mean of y                 a grey image gives what it gave as RGB
    to colours      1 -> 3: M x = the mean of x, N y = (y, y, y)

Of an image's channels the first three are colours, or the first one where there are fewer than three.

Latent channels are kept from the first on. Those of a KL model are means and log-variances, which quant_conv mixes: it
is folded into the encoder's last layer, so that the kept moments are those of before. With fewer channels the decoder
computes what it gave for 0 in the dropped ones (up to the bias of post_quant_conv at the image's border). A new channel
reads random features and is not used by the decoder yet, so that nothing changes until training finds a use for it.
"""

from typing import Literal

import torch
from diffusers import VQModel
from torch import Tensor

from latent_ae.models.autoencoder import Autoencoder, latent_channels
from latent_ae.randomness import torch_generator

ADAPTED = "_adapted"
"""private key of a model's config: what was adapted, in words; diffusers keeps its own notes there in the same way"""
CONV_IN, CONV_OUT = "encoder.conv_in", "decoder.conv_out"
"""the layers that image channels pass"""
NewChannels = Literal["zero", "average"]
Tensors = dict[str, Tensor]


@torch.no_grad()
def adapt(
    model: Autoencoder, *, image_channels: int, latents: int, new_channels: NewChannels = "zero", seed: int = 0
) -> Autoencoder:
    """A model with the weights of another one, for these numbers of image and latent channels, in eval mode.

    Args:
        model: stays as it is.
        image_channels: of the images.
        latents: channels of the latents, for a VQModel those of the codes.
        new_channels: weights of additional image channels: zero, or the average of the others' (with all scaled so
            that an image whose channels are equal gives what it gave).
        seed: of the random weights that new latent channels start with.
    """
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    before, notes = (config["in_channels"], latent_channels(model)), list[str]()
    if image_channels != before[0]:
        config |= {"in_channels": image_channels, "out_channels": image_channels}
        notes.append(_adapt_images(tensors, before[0], image_channels, new_channels))
    if latents != before[1]:
        unknown = {"scaling_factor": 1.0, "shift_factor": 0.0, "latents_mean": None, "latents_std": None}
        config |= {name: value for name, value in unknown.items() if name in config}
        if isinstance(model, VQModel):
            config["vq_embed_dim"] = latents
            notes.append(_adapt_codes(tensors, before[1], latents, seed))
        else:
            config["latent_channels"] = latents
            notes.append(_adapt_moments(tensors, before[1], latents, seed))
    with torch.random.fork_rng(devices=[]):  # diffusers draws weights, which are all replaced
        adapted: Autoencoder = type(model).from_config(config)
    adapted.load_state_dict(tensors)
    adapted.register_to_config(**{ADAPTED: "; ".join(notes)})
    return adapted.eval()


def image_maps(before: int, after: int, new_channels: NewChannels) -> tuple[Tensor, Tensor]:
    """M [before, after] and N [after, before]: the channels that the old model gets and gives, by the new ones."""
    colours, wanted = _colours(before), _colours(after)
    kept = min(before - colours, after - wanted)
    into, out = torch.zeros(before, after), torch.zeros(after, before)
    into[:colours, :wanted] = torch.eye(colours) if colours == wanted else 1 / wanted
    out[:wanted, :colours] = torch.eye(colours) if colours == wanted else 1 / colours
    others = range(kept)
    into[[colours + i for i in others], [wanted + i for i in others]] = 1.0
    out[[wanted + i for i in others], [colours + i for i in others]] = 1.0
    present = wanted + kept
    if new_channels == "average":
        into[:, present:] = into[:, :present].mean(1, keepdim=True)
        into *= present / after
        out[present:] = out[:present].mean(0)
    return into, out


def _adapt_images(tensors: Tensors, before: int, after: int, new_channels: NewChannels) -> str:
    into, out = image_maps(before, after, new_channels)
    tensors[f"{CONV_IN}.weight"] = torch.einsum("fihw,ij->fjhw", tensors[f"{CONV_IN}.weight"], into)
    tensors[f"{CONV_OUT}.weight"] = torch.einsum("ji,ifhw->jfhw", out, tensors[f"{CONV_OUT}.weight"])
    tensors[f"{CONV_OUT}.bias"] = out @ tensors[f"{CONV_OUT}.bias"]
    return f"image channels {before} -> {after}: {_image_words(before, after, new_channels)}"


def _image_words(before: int, after: int, new_channels: NewChannels) -> str:
    colours, wanted = _colours(before), _colours(after)
    present = wanted + min(before - colours, after - wanted)
    dropped = before - colours - (present - wanted)
    same = range(1 if colours == wanted else wanted + 1, present + 1)
    words = []
    if colours > wanted:
        words.append(f"{CONV_IN} summed and {CONV_OUT} averaged over the three colours")
    if colours < wanted:
        words.append(f"{CONV_IN} a third of grey's, {CONV_OUT} all of it, for each of the three colours")
    if same:
        words.append(f"{CONV_IN} and {CONV_OUT} copied for {_span(same)}")
    if dropped:
        words.append(f"{_span(range(before - dropped + 1, before + 1))} of before left out")
    if after > present and new_channels == "zero":
        words.append(f"zero for {_span(range(present + 1, after + 1))}")
    elif after > present:
        words.append(
            f"the others' average for {_span(range(present + 1, after + 1))}, {CONV_IN} times {present}/{after}"
        )
    return ", ".join(words)


def _adapt_moments(tensors: Tensors, before: int, after: int, seed: int) -> str:
    """Of an AutoencoderKL."""
    kept, new = min(before, after), max(0, after - before)
    _adapt_encoder(tensors, kept, new, seed)
    _adapt_decoder(tensors, kept, new)
    text = f"latent channels {before} -> {after}: means and log-variances of {_span(range(1, kept + 1))} kept"
    if not new:
        return f"{text}, those of {_span(range(after + 1, before + 1))} left out"
    return (
        f"{text}; for {_span(range(before + 1, after + 1))} random means and the others' average log-variance in "
        "encoder.conv_out, zero in decoder.conv_in"
    )


def _adapt_encoder(tensors: Tensors, kept: int, new: int, seed: int) -> None:
    weight, bias = tensors["encoder.conv_out.weight"], tensors["encoder.conv_out.bias"]
    if "quant_conv.weight" in tensors:
        mix = tensors["quant_conv.weight"][:, :, 0, 0]
        weight, bias = torch.einsum("oi,ifhw->ofhw", mix, weight), mix @ bias + tensors["quant_conv.bias"]
        tensors["quant_conv.weight"] = torch.eye(2 * (kept + new))[:, :, None, None]
        tensors["quant_conv.bias"] = torch.zeros(2 * (kept + new))
    (mean, logvar), (mean_bias, logvar_bias) = weight.chunk(2), bias.chunk(2)
    average, average_bias = logvar.mean(0).expand(new, *logvar.shape[1:]), logvar_bias.mean().expand(new)
    tensors["encoder.conv_out.weight"] = torch.cat([mean[:kept], _like(mean, new, seed), logvar[:kept], average])
    tensors["encoder.conv_out.bias"] = torch.cat([mean_bias[:kept], torch.zeros(new), logvar_bias[:kept], average_bias])


def _adapt_decoder(tensors: Tensors, kept: int, new: int) -> None:
    first, name = tensors["decoder.conv_in.weight"], "decoder.conv_in.weight"
    if new:
        tensors[name] = torch.cat([first, first.new_zeros(len(first), new, *first.shape[2:])], 1)
    if "post_quant_conv.weight" not in tensors:
        tensors[name] = tensors[name][:, : kept + new]
        return
    mix, offset = tensors["post_quant_conv.weight"][:, :, 0, 0], tensors["post_quant_conv.bias"]
    if not new:  # folded into the next layer
        tensors[name] = torch.einsum("fihw,ij->fjhw", first, mix[:, :kept])
        tensors["decoder.conv_in.bias"] = tensors["decoder.conv_in.bias"] + torch.einsum("fihw,i->f", first, offset)
        mix, offset = torch.eye(kept), torch.zeros(kept)
    tensors["post_quant_conv.weight"] = torch.block_diag(mix, torch.eye(new))[:, :, None, None]
    tensors["post_quant_conv.bias"] = torch.cat([offset, torch.zeros(new)])


def _adapt_codes(tensors: Tensors, before: int, after: int, seed: int) -> str:
    """Of a VQModel."""
    kept, new = min(before, after), max(0, after - before)
    into, codes, out = (f"{name}.weight" for name in ("quant_conv", "quantize.embedding", "post_quant_conv"))
    rows = tensors[into]
    tensors[into] = torch.cat([rows[:kept], _like(rows, new, seed)])
    tensors["quant_conv.bias"] = torch.cat([tensors["quant_conv.bias"][:kept], torch.zeros(new)])
    for name in (codes, out):
        given = tensors[name]
        tensors[name] = torch.cat([given[:, :kept], given.new_zeros(len(given), new, *given.shape[2:])], 1)
    text = f"latent channels {before} -> {after}: {_span(range(1, kept + 1))} of the codes kept"
    if not new:
        return f"{text}, {_span(range(after + 1, before + 1))} left out"
    span = _span(range(before + 1, after + 1))
    return f"{text}; for {span} random weights in quant_conv, zero in the codebook and post_quant_conv"


def _like(rows: Tensor, count: int, seed: int) -> Tensor:
    """Random rows, as large as the others."""
    noise = torch.randn(count, *rows.shape[1:], generator=torch_generator(seed, "new latent channels"))
    return noise * rows.std()


def _colours(channels: int) -> int:
    return 3 if channels >= 3 else 1


def _span(numbers: range) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
