"""What is said and shown of latents."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.io.image import to_pil
from latent_ae.io.latent_file.latents import Latents
from latent_ae.models.adapters.normalisation import scalars
from latent_ae.service.catalog import describe
from latent_ae.service.inspection import channel_pictures, code_picture, difference_map, inspect_latents, palette
from latent_ae.service.results import code_bits

from .conftest import CODES, pixels, with_stats


def latents(codec: Codec, tensor: torch.Tensor, logvar: torch.Tensor | None = None) -> Latents:
    kind = "vq_indices" if codec.is_vq else "mean"
    h, w = tensor.shape[-2:]
    return Latents(kind, tensor, codec.identity, 4 * h, 4 * w, 4, logvar=logvar, codebook_size=codec.codebook_size)


def test_the_histogram_of_normal_latents_is_the_normal_ones(kl: Codec) -> None:
    draws = torch.randn(1, 2, 300, 300, generator=torch.Generator().manual_seed(1))
    found = inspect_latents(describe("kl", kl), latents(kl, draws), kl.normalisation)
    middles, shares, normal = map(torch.tensor, zip(*found.histogram, strict=True))
    assert shares.sum() == pytest.approx(1)
    assert normal.sum() == pytest.approx(1)
    assert (shares - normal).abs().max() < 0.002
    assert middles[25] == pytest.approx(0.1)
    assert normal[25] == pytest.approx(torch.special.ndtr(torch.tensor(0.2)).item() - 0.5, abs=1e-6)


def test_latents_are_scaled_as_diffusion_sees_them_and_nothing_falls_out(kl: Codec) -> None:
    values = torch.tensor([3.1, 3.3, -500.0, 500.0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    shares = [
        share for _, share, _ in inspect_latents(describe("kl", kl), latents(kl, values), scalars(0.5, 3.0)).histogram
    ]
    assert shares[0] == shares[-1] == 0.25
    assert shares[25] == 0.5


def test_channels_stand_beside_what_was_measured(tmp_path: Path) -> None:
    codec = with_stats(tmp_path)
    info = describe("tiny", codec)
    values = torch.stack([torch.full((3, 3), 2.0), torch.zeros(3, 3)])[None]
    found = inspect_latents(info, latents(codec, values, torch.zeros_like(values)), codec.normalisation)
    assert info.stats is not None
    first, second = found.channels
    assert first["mean"] == info.stats["sample"]["channel_mean"][0]
    assert second["kl_nats"] == info.stats["kl_nats_per_channel"][1]
    assert first["active_share"] == info.stats["active_units"]["share_per_channel"][0]
    assert (first["image_mean"], first["image_std"]) == (2.0, 0.0)
    assert first["image_kl_nats"] == pytest.approx(9 * 2.0)  # mean^2 / 2, at 9 positions
    assert len(found.channel_images) == 2


def test_codes_are_counted(vq: Codec) -> None:
    codes = torch.tensor([[[0, 0, 3], [3, 5, 0]]])
    found = inspect_latents(describe("vq", vq), latents(vq, codes), vq.normalisation)
    assert found.code_counts == (3, 0, 0, 2, 0, 1, *[0] * 6)
    assert found.codebook is not None
    assert (found.codebook["used"], found.codebook["codebook_size"]) == (3, CODES)
    assert found.codebook["entropy_bits"] == pytest.approx(1.459148, abs=1e-6)
    assert found.histogram == found.channels == ()
    assert found.channel_images[0].shape == (8, 12, 3)


@pytest.mark.parametrize(("size", "bits"), [(1, 1), (2, 1), (3, 2), (256, 8), (257, 9), (1024, 10), (16_384, 14)])
def test_a_code_takes_the_bits_of_its_codebook(size: int, bits: int) -> None:
    assert code_bits(size) == bits


def test_a_picture_of_codes_is_of_an_encoded_image(vq: Codec) -> None:
    found = inspect_latents(describe("vq", vq), vq.encode([pixels(16, 16)])[0], vq.normalisation)
    assert sum(found.code_counts or ()) == 16


def test_a_difference_is_black_below_the_tolerance_and_amplified_above() -> None:
    wanted = np.array([[[10, 10, 10], [10, 10, 10], [0, 100, 255]]], np.uint8)
    got = np.array([[[12, 9, 10], [13, 9, 10], [255, 101, 0]]], np.uint8)
    found = difference_map(got, wanted, tolerance=3, gain=2.5)
    assert found.tolist() == [[[0, 0, 0], [8, 3, 0], [255, 3, 255]]]
    assert np.array_equal(difference_map(wanted, got, tolerance=3, gain=2.5), found)
    assert np.array_equal(difference_map(got, wanted, tolerance=0, gain=1), np.abs(got.astype(int) - wanted))


def test_a_channel_is_shown_over_its_own_range() -> None:
    ramp = torch.linspace(-7, 3, 12).view(1, 3, 4)
    flat, steep = channel_pictures(torch.cat([torch.full((1, 3, 4), 5.0), ramp]), factor=8)
    assert flat.shape == steep.shape == (24, 32, 1)
    assert (flat == 128).all()
    assert (steep[0, 0, 0], steep[-1, -1, 0]) == (0, 255)
    small = steep[::8, ::8, 0].ravel().astype(int)
    assert (np.diff(small) > 0).all()
    assert np.array_equal(steep, small.reshape(3, 4).repeat(8, 0).repeat(8, 1)[:, :, None])


def test_a_channels_outliers_do_not_darken_the_rest() -> None:
    values = torch.linspace(0, 1, 1000).view(1, 20, 50).clone()
    values[0, 0, 0] = 1e6
    assert 100 < np.median(channel_pictures(values, factor=1)[0]) < 155


def test_large_grids_are_not_enlarged() -> None:
    assert channel_pictures(torch.zeros(1, 600, 100), factor=8)[0].shape == (600, 100, 1)
    assert channel_pictures(torch.zeros(1, 200, 100), factor=8)[0].shape == (400, 200, 1)


@pytest.mark.parametrize("size", [1, 2, 256, 1024, 16_384])
def test_every_code_has_its_own_colour(size: int) -> None:
    colors = palette(size)
    assert colors.shape == (size, 3)
    repeated = sum(count - 1 for count in Counter(map(tuple, colors.tolist())).values())
    assert repeated <= size // 100


def test_codes_are_a_picture_in_their_colours() -> None:
    codes = torch.tensor([[0, 1], [2, 0]])
    picture = code_picture(codes, 3, factor=4)
    assert np.array_equal(picture[::4, ::4], palette(3)[codes.numpy()])
    assert picture.shape == (8, 8, 3)
    assert to_pil(picture).mode == "RGB"
