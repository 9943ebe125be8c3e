"""A linear start makes a stock autoencoder a linear codec: held against principal components taken by numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from latent_ae.config import ModelConfig
from latent_ae.evaluation.perceptual import build_perceptual
from latent_ae.models import build_autoencoder, factor_of
from latent_ae.models.bottlenecks.kl import KLBottleneck
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.models.errors import ModelError
from latent_ae.models.linear_start import linear_start, set_start_logvar, zero_residuals
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.objective import Objective, Weights
from latent_ae.training.preflight import preflight

STD, SMALLEST = 0.8, 0.08
"""of a principal component in the latents; below the smallest deviation a component is not blown up to it"""


def waves(count: int, channels: int, seed: int) -> Tensor:
    """Smooth images [count, channels, 32, 32] in [-1, 1]: one plane wave a channel, with an offset."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] / 32
    frequency = draw.uniform(-1.5, 1.5, (2, count, channels, 1, 1))
    phase = draw.uniform(0, 1, (count, channels, 1, 1))
    amplitude = draw.uniform(0.3, 0.7, (count, channels, 1, 1))
    wave = amplitude * np.cos(2 * np.pi * (frequency[0] * y + frequency[1] * x + phase))
    return torch.from_numpy(wave + draw.uniform(-0.3, 0.3, (count, channels, 1, 1))).float()


def build(channels: int, widths: tuple[int, ...], latents: int = 4, *, attention: bool = False) -> AutoencoderKL:
    sizes = {"image_channels": channels, "block_out_channels": widths, "latent_channels": latents}
    config = ModelConfig(preset="tiny", norm_num_groups=1, mid_block_add_attention=attention, **sizes)
    return build_autoencoder(config, seed=0, resolution=32).eval()


def started(channels: int, widths: tuple[int, ...], latents: int = 4, *, attention: bool = False) -> AutoencoderKL:
    model = build(channels, widths, latents, attention=attention)
    linear_start(model, waves(64, channels, seed=0))
    return model


ROOM = [(1, (12, 24), 2), (3, (14, 24), 3), (1, (8, 16, 24), 4), (3, (16, 32, 48), 4), (1, (8, 20, 32, 48), 4)]


@pytest.fixture(scope="module", params=ROOM, ids=lambda room: f"{room[0]}-channels-{len(room[1])}-levels")
def model(request: pytest.FixtureRequest) -> AutoencoderKL:
    return started(*request.param)


def blocks(images: Tensor, factor: int) -> NDArray[np.float64]:
    """[N, C, H, W] -> [N, h, w, factor * factor * C], in the order row, column, colour."""
    rows = []
    for image in images.double().numpy():
        starts = [range(0, side, factor) for side in image.shape[1:]]
        pieces = [[image[:, y : y + factor, x : x + factor] for x in starts[1]] for y in starts[0]]
        rows.append([[piece.transpose(1, 2, 0).ravel() for piece in row] for row in pieces])
    return np.array(rows)


def principal_coefficients(images: Tensor, *, factor: int, count: int) -> NDArray[np.float64]:
    """[N, count, h, w]: coordinates along the components of `waves`, each with the standard deviation STD there."""
    fitted = blocks(waves(64, images.shape[1], seed=0), factor)
    vectors = fitted.reshape(-1, fitted.shape[-1])
    _, singular, directions = np.linalg.svd(vectors, full_matrices=False)
    deviations = np.maximum(singular / np.sqrt(len(vectors)), SMALLEST)[:count]
    directions = directions[:count] * np.where(directions[:count].sum(1) < 0, -1, 1)[:, None]
    return (blocks(images, factor) @ directions.T / deviations * STD).transpose(0, 3, 1, 2)


def means(model: AutoencoderKL, images: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        return model.encode(images).latent_dist.mean.double().numpy()


def test_the_encoder_gives_the_principal_components(model: AutoencoderKL) -> None:
    images = waves(8, model.config["in_channels"], seed=1)
    normalised: list[Tensor] = []
    hook = model.encoder.conv_norm_out.register_forward_hook(
        lambda _, given, __: normalised.append(given[0].flatten(1))
    )
    latents = means(model, images)
    hook.remove()
    expected = principal_coefficients(images, factor=factor_of(model), count=latents.shape[1])
    assert expected.std() > 0.5  # something is compared
    for got, wanted, values in zip(latents, expected, normalised[0].double().numpy(), strict=True):
        # The one approximation is the last normalisation: it takes an image's (mean, deviation) for (0, sqrt(2.3)).
        # With its own numbers the way of a component v to the latents is exact.
        mean, deviation = values.mean(), values.std()
        exact = 2.3**0.5 * (silu((wanted - mean) / deviation) - silu((-wanted - mean) / deviation))
        assert np.abs(got - exact).max() <= 1e-4
        # deviation^2 = 2 + m, m the mean square of what is no constant; m < 0.85 is within a tenth of sqrt(2.3), and
        # a mean of e deviations is a further factor of 1 - e.
        assert np.abs(got - wanted).max() <= 0.1 * np.abs(wanted).max()


def silu(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / (1 + np.exp(-values))


def test_half_the_contrast_is_half_the_latents(model: AutoencoderKL) -> None:
    images = waves(8, model.config["in_channels"], seed=1)
    whole, half = means(model, images), means(model, images / 2)
    # At half the contrast m is a quarter, so that the scale grows by sqrt(2.85 / 2.21) = 1.13 at most.
    assert np.abs(half - whole / 2).max() <= 0.07 * np.abs(whole).max()
    assert np.abs(means(model, images * 0)).max() <= 0.01  # grey is 0


def test_diffusers_own_start_is_not_linear_in_contrast() -> None:
    model = build(1, (8, 16, 24))
    images = waves(8, 1, seed=1)
    whole, half = means(model, images), means(model, images / 2)
    assert np.abs(half - whole / 2).max() >= 0.25 * np.abs(whole).max()


def psnr(model: AutoencoderKL, images: Tensor) -> float:
    with torch.no_grad():
        reconstructions = model.decode(model.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (reconstructions - images).square().mean(dim=(1, 2, 3)))).mean())


def test_the_picture_is_there_before_training(model: AutoencoderKL) -> None:
    images = waves(8, model.config["in_channels"], seed=1)
    widths = tuple(model.config["block_out_channels"])
    assert psnr(model, images) >= 20
    assert psnr(build(model.config["in_channels"], widths, model.config["latent_channels"]), images) <= 15


def test_attention_begins_as_its_skip_path() -> None:
    images = waves(4, 1, seed=1)
    with_attention, without = (means(started(1, (8, 16, 24), attention=there), images) for there in (True, False))
    assert np.abs(with_attention - without).max() <= 1e-5


@pytest.mark.parametrize("convolutions_around_latents", [True, False])
def test_a_start_logvar_shifts_the_log_variance_alone(convolutions_around_latents: bool) -> None:
    model = build(1, (8, 16, 24))
    if not convolutions_around_latents:  # as in the sd3 preset
        model.quant_conv = None
    images = waves(4, 1, seed=1)
    with torch.no_grad():
        before = model.encode(images).latent_dist
        set_start_logvar(model, -5.0)
        after = model.encode(images).latent_dist
    assert torch.equal(after.mean, before.mean)
    torch.testing.assert_close(after.logvar, before.logvar - 5, atol=1e-5, rtol=0)


def test_zero_residuals_make_every_block_its_skip_path() -> None:
    model = build(1, (8, 16, 24), attention=True)
    blocks_of = [module for module in model.modules() if type(module).__name__ in ("ResnetBlock2D", "Attention")]
    values = {block: torch.randn(1, block.group_norm.num_channels, 4, 4) for block in blocks_of if is_attention(block)}
    values |= {block: torch.randn(1, block.in_channels, 4, 4) for block in blocks_of if not is_attention(block)}
    with torch.no_grad():
        assert not any(torch.equal(run(block, value), skip(block, value)) for block, value in values.items())
        zero_residuals(model)
        assert all(torch.equal(run(block, value), skip(block, value)) for block, value in values.items())
    assert len(values) == 5 + 8 + 2  # residual blocks of encoder and decoder, and an attention in both


def is_attention(block: nn.Module) -> bool:
    return type(block).__name__ == "Attention"


def run(block: nn.Module, values: Tensor) -> Tensor:
    return block(values) if is_attention(block) else block(values, None)


def skip(block: nn.Module, values: Tensor) -> Tensor:
    shortcut = None if is_attention(block) else block.conv_shortcut
    return values if shortcut is None else shortcut(values)


@pytest.mark.parametrize("room", [ROOM[2], ROOM[3]])
def test_without_whitening_the_latents_are_as_far_apart_as_the_blocks(room: tuple[int, tuple[int, ...], int]) -> None:
    channels, widths, latents = room
    sizes = {"image_channels": channels, "block_out_channels": widths, "latent_channels": latents}
    config = ModelConfig(preset="tiny", norm_num_groups=1, mid_block_add_attention=False, **sizes)
    codes = VQConfig(codebook_size=4)
    model = build_autoencoder(config, codes, seed=0, resolution=32).eval()
    linear_start(model, waves(64, channels, seed=0), whiten=False)
    images = waves(8, channels, seed=1)
    factor = 2 ** (len(widths) - 1)
    _, singular, _ = np.linalg.svd(blocks(waves(64, channels, seed=0), factor).reshape(-1, channels * factor**2))
    deviations = singular / np.sqrt(64 * (32 // factor) ** 2)
    whitened = principal_coefficients(images, factor=factor, count=latents)
    wanted = whitened * (np.maximum(deviations, SMALLEST)[:latents] / deviations[0])[:, None, None]
    with torch.no_grad():
        vectors = model.encode(images).latents
        decoded = model.decode(vectors, force_not_quantize=True).sample
    assert np.abs(vectors.numpy() - wanted).max() < 0.1 * np.abs(wanted).max()
    error = (decoded.clamp(-1, 1) - images).square().mean(dim=(1, 2, 3))
    assert (10 * torch.log10(4 / error)).mean() >= 20  # as with whitened latents


def test_codes_of_other_channels_than_the_latents_are_refused() -> None:
    config = ModelConfig(preset="tiny", norm_num_groups=1, block_out_channels=(12, 24))
    codes = VQConfig(codebook_size=4, code_channels=1)
    model = build_autoencoder(config, codes, seed=0, resolution=32)
    with pytest.raises(ModelError, match="codes of as many channels as the latents, got 1 and 2: leave out"):
        linear_start(model, waves(8, 1, seed=0))


def test_it_is_a_function_of_model_and_images() -> None:
    one, again = (started(1, (8, 16, 24)).state_dict() for _ in range(2))
    assert [name for name in one if not torch.equal(one[name], again[name])] == []


def test_it_remains_a_stock_model(model: AutoencoderKL, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoencoderKL.from_pretrained(tmp_path)
    fresh = build(
        model.config["in_channels"], tuple(model.config["block_out_channels"]), model.config["latent_channels"]
    )
    assert loaded.state_dict().keys() == fresh.state_dict().keys()
    assert {name: value.shape for name, value in loaded.state_dict().items()} == {
        name: value.shape for name, value in fresh.state_dict().items()
    }
    images = waves(2, model.config["in_channels"], seed=1)
    with torch.no_grad():
        assert torch.equal(loaded(images).sample, model(images).sample)


@pytest.mark.parametrize("room", [ROOM[2], ROOM[3]])
def test_every_term_reaches_every_module_and_every_layer_learns(room: tuple[int, tuple[int, ...], int]) -> None:
    model = started(*room).train()
    channels, _, latents = room
    distance = build_perceptual("random_features", image_channels=channels)
    objective = Objective(TrainableAutoencoder(model, KLBottleneck()), RECONSTRUCTION["l2"](), distance)
    images, noise = waves(4, channels, seed=2), torch.zeros(4, latents, 8, 8)
    table = preflight(objective, images, noise, Weights({"perceptual": 0.1, "kl": 1e-6}))
    assert all(table.norms["reconstruction"][module] > 1e-4 for module in ("encoder", "quant_conv", "decoder"))

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    idle: list[set[str]] = []
    for _ in range(2):
        optimizer.zero_grad()
        objective(images, noise).losses["reconstruction"].backward()
        idle.append({name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()})
        optimizer.step()
    # A zero second convolution hides what is before it in its block for one step, and learns in that step itself.
    assert not [name for name in idle[0] if ".conv2." in name]
    assert all(".resnets." in name for name in idle[0])
    assert {name for name in idle[0] if ".conv1.weight" in name}
    assert idle[1] == set()


@pytest.mark.parametrize(
    ("channels", "widths", "latents", "groups", "message"),
    [
        (1, (8, 16, 24), 4, 4, "model.start linear needs model.norm_num_groups 1, got 4"),
        (1, (8,), 4, 1, "model.start linear needs two levels or more of growing widths, got (8,)"),
        (1, (8, 8, 24), 4, 1, "model.start linear needs two levels or more of growing widths, got (8, 8, 24)"),
        (1, (24, 16, 8), 4, 1, "model.start linear needs two levels or more of growing widths, got (24, 16, 8)"),
        (3, (13, 32, 48), 4, 1, "model.start linear needs widths of at least (14, 12, 36) here, got (13, 32, 48)"),
        (1, (8, 9, 24), 4, 1, "model.start linear needs widths of at least (6, 10, 13) here, got (8, 9, 24)"),
        (1, (16, 40), 8, 1, "model.start linear needs no more latent channels than the 4 values of a block, got 8"),
        (1, (8, 16, 19), 4, 1, "model.start linear needs widths of at least (6, 10, 20) here, got (8, 16, 19)"),
    ],
)
def test_a_model_without_room_is_refused(
    channels: int, widths: tuple[int, ...], latents: int, groups: int, message: str
) -> None:
    sizes = {"image_channels": channels, "block_out_channels": widths, "latent_channels": latents}
    config = ModelConfig(preset="tiny", norm_num_groups=groups, **sizes)
    model = build_autoencoder(config, seed=0, resolution=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError) as error:
        linear_start(model, waves(2, channels, seed=0))
    assert str(error.value).startswith(message)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_smallest_widths_that_the_refusal_names_are_enough() -> None:
    images = waves(4, 1, seed=1)
    model = started(1, (6, 10, 14), 4)
    expected = principal_coefficients(images, factor=4, count=4)
    assert np.corrcoef(means(model, images).ravel(), expected.ravel())[0, 1] >= 0.999
