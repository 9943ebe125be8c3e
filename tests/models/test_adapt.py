"""An adapted model computes what its source computes, by channel maps worked out by hand."""

from pathlib import Path
from typing import TypeVar

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from latent_ae.config import ConfigError, ModelConfig, validate
from latent_ae.models import build_autoencoder
from latent_ae.models.adapt import ADAPTED, adapt
from latent_ae.models.errors import ModelError
from latent_ae.training.settings import RunConfig

M = TypeVar("M", AutoencoderKL, VQModel)
THIRD = 1 / 3
RGB = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
MAPS: dict[str, tuple[int, int, str, list[list[float]], list[list[float]], str]] = {
    # (before, after, new channels, M: the old channels by the new ones, N: the new ones by the old ones, the words)
    "RGB to grey": (
        *(3, 1, "zero", [[1.0], [1], [1]], [[THIRD] * 3]),
        "encoder.conv_in summed and decoder.conv_out averaged over the three colours",
    ),
    "RGBA to grey": (
        *(4, 1, "zero", [[1.0], [1], [1], [0]], [[THIRD, THIRD, THIRD, 0]]),
        "encoder.conv_in summed and decoder.conv_out averaged over the three colours, 4 of before left out",
    ),
    "grey to RGB": (
        *(1, 3, "zero", [[THIRD] * 3], [[1.0], [1], [1]]),
        "encoder.conv_in a third of grey's, decoder.conv_out all of it, for each of the three colours",
    ),
    "grey and alpha to RGBA": (
        *(2, 4, "zero", [[THIRD, THIRD, THIRD, 0], [0, 0, 0, 1]], [[1.0, 0], [1, 0], [1, 0], [0, 1]]),
        "encoder.conv_in a third of grey's, decoder.conv_out all of it, for each of the three colours, encoder.conv_in "
        "and decoder.conv_out copied for 4",
    ),
    "a fourth": (
        *(3, 4, "zero", [[*row, 0] for row in RGB], [*RGB, [0.0, 0, 0]]),
        "encoder.conv_in and decoder.conv_out copied for 1-3, zero for 4",
    ),
    "a fourth like the others": (
        *(3, 4, "average", [[0.75 * x for x in (*row, THIRD)] for row in RGB], [*RGB, [THIRD] * 3]),
        "encoder.conv_in and decoder.conv_out copied for 1-3, the others' average for 4, encoder.conv_in times 3/4",
    ),
    "fewer bands": (
        *(6, 4, "zero", [[*row, 0] for row in RGB] + [[0, 0, 0, 1], [0] * 4, [0] * 4]),
        [[*row, 0, 0, 0] for row in RGB] + [[0, 0, 0, 1, 0, 0]],
        "encoder.conv_in and decoder.conv_out copied for 1-4, 5-6 of before left out",
    ),
}


def kl(channels: int = 3, latents: int = 3, *, convolutions: bool = True) -> AutoencoderKL:
    """A tiny model whose every weight and bias is drawn."""
    torch.manual_seed(0)
    ends = {"use_quant_conv": convolutions, "use_post_quant_conv": convolutions}
    size = {"block_out_channels": (8,), "norm_num_groups": 4, "mid_block_add_attention": False}
    model = AutoencoderKL(channels, channels, latent_channels=latents, latents_mean=[0.0] * latents, **size, **ends)
    return drawn(model)


def vq(channels: int = 1, latents: int = 3) -> VQModel:
    torch.manual_seed(0)
    size = {"block_out_channels": (8,), "norm_num_groups": 4, "mid_block_add_attention": False}
    return drawn(VQModel(channels, channels, latent_channels=2, num_vq_embeddings=16, vq_embed_dim=latents, **size))


def drawn(model: M) -> M:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", MAPS)
@torch.no_grad()
def test_image_channels_are_those_of_before_by_the_maps(name: str) -> None:
    before, after, new, into, out, words = MAPS[name]
    source = kl(before)
    adapted = adapt(source, image_channels=after, latents=3, new_channels=new)  # type: ignore[arg-type]  # of the table
    assert (adapted.config["in_channels"], adapted.config["out_channels"]) == (after, after)
    assert adapted.config[ADAPTED] == f"image channels {before} -> {after}: {words}"
    x, z = torch.randn(2, after, 8, 8), torch.randn(2, 3, 8, 8)
    seen = torch.einsum("ij,bjhw->bihw", torch.tensor(into), x)
    close(adapted.encode(x).latent_dist.parameters, source.encode(seen).latent_dist.parameters)
    close(adapted.decode(z).sample, torch.einsum("ji,bihw->bjhw", torch.tensor(out), source.decode(z).sample))
    if new == "average":  # an image whose channels are equal gives what it gave
        grey = torch.randn(1, 1, 8, 8)
        alike = source.encode(grey.expand(1, before, 8, 8)).latent_dist.parameters
        close(adapted.encode(grey.expand(1, after, 8, 8)).latent_dist.parameters, alike)


@torch.no_grad()
def test_a_grey_image_gives_what_it_gave_as_rgb() -> None:
    source = kl(3)
    adapted = adapt(source, image_channels=1, latents=3)
    grey = torch.rand(2, 1, 8, 8) * 2 - 1
    as_rgb = source.encode(grey.repeat(1, 3, 1, 1)).latent_dist.mean
    close(adapted.encode(grey).latent_dist.mean, as_rgb)
    close(adapted.decode(as_rgb).sample, source.decode(as_rgb).sample.mean(1, keepdim=True))


@pytest.mark.parametrize("convolutions", [True, False])
@torch.no_grad()
def test_more_latent_channels_change_nothing_of_what_was_there(convolutions: bool) -> None:
    source = kl(convolutions=convolutions)
    adapted = adapt(source, image_channels=3, latents=5, seed=1)
    x, z = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)
    mean, logvar = adapted.encode(x).latent_dist.parameters.chunk(2, 1)
    old_mean, old_logvar = source.encode(x).latent_dist.parameters.chunk(2, 1)
    close(mean[:, :3], old_mean)
    close(logvar[:, :3], old_logvar)
    # The posterior clamps a log-variance; none is that large here.
    close(logvar[:, 3:], old_logvar.mean(1, keepdim=True).expand(2, 2, 8, 8))
    assert (mean[:, 3:].std((0, 2, 3)) > 0.01).all(), "a new mean reads the image, or it would never learn"
    close(adapted.decode(z).sample, source.decode(z[:, :3]).sample)
    other = adapt(source, image_channels=3, latents=5, seed=2).encode(x).latent_dist.mean
    assert not torch.equal(other[:, 3:], mean[:, 3:])
    assert (adapted.config["latents_mean"], source.config["latents_mean"]) == (None, [0.0, 0.0, 0.0])
    assert adapted.config[ADAPTED] == (
        "latent channels 3 -> 5: means and log-variances of 1-3 kept; for 4-5 random means and the others' average "
        "log-variance in encoder.conv_out, zero in decoder.conv_in"
    )


@pytest.mark.parametrize("convolutions", [True, False])
@torch.no_grad()
def test_fewer_latent_channels_are_the_first_with_their_moments(convolutions: bool) -> None:
    source = kl(convolutions=convolutions)
    adapted = adapt(source, image_channels=3, latents=2)
    x, z = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8)
    mean, logvar = adapted.encode(x).latent_dist.parameters.chunk(2, 1)
    old_mean, old_logvar = source.encode(x).latent_dist.parameters.chunk(2, 1)
    close(mean, old_mean[:, :2])
    close(logvar, old_logvar[:, :2])
    padded = torch.cat([z, torch.zeros(2, 1, 8, 8)], 1)
    layers = [(model.post_quant_conv, model.decoder.conv_in) for model in (adapted, source)]
    got, expected = (
        last(latents if first is None else first(latents))
        for (first, last), latents in zip(layers, (z, padded), strict=True)
    )
    close(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    if source.post_quant_conv is not None:
        source.post_quant_conv.bias.zero_()  # the convolution after it pads with 0, not with the bias
        adapted = adapt(source, image_channels=3, latents=2)
    close(adapted.decode(z).sample, source.decode(padded).sample)
    assert adapted.config[ADAPTED] == (
        "latent channels 3 -> 2: means and log-variances of 1-2 kept, those of 3 left out"
    )


@torch.no_grad()
def test_codes_keep_their_first_channels_and_their_choice() -> None:
    source, x = vq(), torch.randn(2, 1, 8, 8)
    h = source.encode(x).latents
    more = adapt(source, image_channels=1, latents=5)
    assert more.quantize.embedding.weight.shape == (16, 5)
    close(more.encode(x).latents[:, :3], h)
    assert torch.equal(more.quantize(more.encode(x).latents)[2][2], source.quantize(h)[2][2])
    close(more.decode(more.encode(x).latents).sample, source.decode(h).sample)
    fewer = adapt(source, image_channels=1, latents=2)
    close(fewer.encode(x).latents, h[:, :2])
    assert torch.equal(fewer.quantize.embedding.weight, source.quantize.embedding.weight[:, :2])
    codes = source.quantize.embedding.weight[:1, :2].reshape(1, 2, 1, 1).repeat(1, 1, 8, 8)
    padded = torch.cat([codes, torch.zeros(1, 1, 8, 8)], 1)
    close(fewer.post_quant_conv(codes), source.post_quant_conv(padded))
    assert fewer.config[ADAPTED] == "latent channels 3 -> 2: 1-2 of the codes kept, 3 left out"
    assert more.config[ADAPTED] == (
        "latent channels 3 -> 5: 1-3 of the codes kept; for 4-5 random weights in quant_conv, zero in the codebook and "
        "post_quant_conv"
    )


def test_the_source_and_the_global_generator_stay_as_they_were() -> None:
    source = kl()
    before, state = {name: tensor.clone() for name, tensor in source.state_dict().items()}, torch.get_rng_state()
    adapt(source, image_channels=4, latents=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place: Path = tmp_path_factory.mktemp("source")
    kl().save_pretrained(place)
    return str(place)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"image_channels": 3}, "model.image_channels 3 has no effect, as .* has 3: leave it out"),
        ({"latent_channels": 3}, "model.latent_channels 3 has no effect"),
        ({"image_channels": 1, "new_channels": "zero"}, "model.new_channels has no effect, as .* has 3 image channels"),
        ({"latent_channels": 4, "trained": ("decoder",)}, "4 adds channels to the 3 of .* frozen encoder never fills"),
        (
            {"image_channels": 4, "trained": ("decoder",)},
            "zero weights in encoder.conv_in, which",
        ),
        ({"image_channels": 4, "trained": ("encoder", "decoder.up_blocks")}, "zero weights in decoder.conv_out, which"),
    ],
)
def test_channels_without_effect_are_one_line(model: dict[str, object], message: str, folder: str) -> None:
    config = validate(ModelConfig, {"preset": None, "init_from": folder, **model})
    with pytest.raises(ModelError, match=message) as caught:
        build_autoencoder(config, seed=0, resolution=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"new_channels": "zero"}}, "model.new_channels has an effect only with model.init_from"),
        ({"model": {"preset": None, "init_from": "x", "layers_per_block": 1}}, "model.layers_per_block would have no"),
        ({"model": {"image_channels": 65}}, "model.image_channels: got 65"),
        (
            {
                "model": {"preset": None, "init_from": "x", "latent_channels": 2},
                "bottleneck": {"kind": "fsq", "levels": [3, 3]},
            },
            "bottleneck.kind fsq has a latent channel for each of bottleneck.levels",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_line(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validate(RunConfig, tree)
    assert "\n" not in str(caught.value)
