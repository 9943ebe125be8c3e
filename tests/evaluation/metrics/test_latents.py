"""Latent statistics against numbers worked out by hand, numpy and diffusers."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from latent_ae.evaluation.metrics.latents import LatentStatistics, LatentSums


def posteriors(images: int, *shape: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Channels with different means, scales and posterior variances."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.arange(shape[0], dtype=torch.float32)[:, None, None]
    mean = torch.randn(images, *shape, generator=generator) * (ramp + 0.5) + 3 * ramp
    return mean, torch.randn(images, *shape, generator=generator) - ramp


def measured(mean: Tensor, logvar: Tensor, *, cuts: tuple[int, ...]) -> LatentStatistics:
    statistics = LatentStatistics()
    for first, last in zip((0, *cuts), (*cuts, len(mean)), strict=True):
        statistics.update(mean[first:last], logvar[first:last])
    return statistics


def test_statistics_are_numpys() -> None:
    mean, logvar = posteriors(12, 3, 4, 5)
    got = measured(mean, logvar, cuts=(1, 6, 11)).to_dict()
    values, variance = mean.double().numpy(), logvar.double().exp().numpy()
    per_channel = variance.mean((0, 2, 3))
    assert (got["images"], got["latent_shape"]) == (12, [3, 4, 5])
    assert got["mode"]["mean"] == pytest.approx(values.mean())
    assert got["mode"]["std"] == pytest.approx(values.std())
    assert got["mode"]["channel_mean"] == pytest.approx(values.mean((0, 2, 3)))
    assert got["mode"]["channel_std"] == pytest.approx(values.std((0, 2, 3)))
    assert got["sample"]["mean"] == got["mode"]["mean"]
    assert got["sample"]["std"] == pytest.approx(np.sqrt(values.var() + variance.mean()))
    assert got["sample"]["channel_std"] == pytest.approx(np.sqrt(values.var((0, 2, 3)) + per_channel))
    assert got["channel_signal_to_noise"] == pytest.approx(values.var((0, 2, 3)) / per_channel)
    kl = DiagonalGaussianDistribution(torch.cat([mean, logvar], 1).double()).kl()
    assert got["kl_nats_per_image"] == pytest.approx(float(kl.mean()))
    assert sum(got["kl_nats_per_channel"]) == pytest.approx(float(kl.mean()))
    assert got["kl_nats_per_value"] == pytest.approx(float(kl.mean()) / 60)
    json.dumps(got, allow_nan=False)


def test_sample_statistics_describe_drawn_latents() -> None:
    mean, logvar = posteriors(40, 2, 16, 16)
    statistics = measured(mean, logvar, cuts=())
    generator = torch.Generator().manual_seed(4)
    drawn = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
    scale, shift = statistics.scaling()
    scaled = (drawn - shift) * scale
    assert float(scaled.std()) == pytest.approx(1, abs=0.01)
    assert float(scaled.mean()) == pytest.approx(0, abs=0.01)
    mode_scale, _ = statistics.scaling("mode")
    assert float(mean.std() * mode_scale) == pytest.approx(1, abs=1e-3)
    assert mode_scale > scale * 1.01


def test_shards_merge_in_any_order() -> None:
    mean, logvar = posteriors(10, 3, 4, 4)
    whole = measured(mean, logvar, cuts=())
    shards = [measured(mean[i::3], logvar[i::3], cuts=(1,)) for i in range(3)]
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = LatentStatistics()
        for i in order:
            merged.merge(shards[i])
        assert merged.to_dict() == whole.to_dict()
        assert merged.scaling() == whole.scaling()


def test_a_large_mean_does_not_cancel() -> None:
    mean, logvar = posteriors(50, 1, 8, 8)
    expected = float(mean.double().std(correction=0))
    got = measured((mean.double() + 1e7), logvar, cuts=(10, 20)).to_dict()
    assert got["mode"]["std"] == pytest.approx(expected, rel=1e-7)


def test_active_units_by_hand() -> None:
    """+-0.2 has variance 0.04 > 0.01, +-0.05 has 0.0025."""
    amplitude = torch.tensor([[[0.2, 0.05]], [[0.05, 0.05]]])  # 2 channels, 1x2 positions
    mean = torch.stack([amplitude, -amplitude])
    units = measured(mean, torch.zeros_like(mean), cuts=(1,)).to_dict()["active_units"]
    assert (units["count"], units["total"], units["share"]) == (1, 4, 0.25)
    assert units["share_per_channel"] == [0.5, 0]
    assert "a unit is a channel at a position" in units["protocol"]


def test_active_units_of_images_that_differ_in_size() -> None:
    """Then a unit is a channel; its variance is over images and positions."""
    statistics = LatentStatistics()
    for side in (2, 3, 2):
        mean = torch.zeros(1, 2, side, side)
        mean[:, 0, 0, 0] = side
        statistics.update(mean, torch.zeros_like(mean))
    got = statistics.to_dict()
    assert got["latent_shape"] is None
    assert (got["active_units"]["count"], got["active_units"]["total"]) == (1, 2)
    assert "as the images differ in size" in got["active_units"]["protocol"]
    assert got["mode"]["channel_mean"] == pytest.approx([7 / 17, 0])


def test_one_image_has_no_active_units() -> None:
    assert measured(*posteriors(1, 2, 2, 2), cuts=()).to_dict()["active_units"] is None


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    mean, logvar = posteriors(6, 2, 3, 3)
    clean = measured(mean[2:], logvar[2:], cuts=()).to_dict()
    mean[0, 0, 0] = math.nan
    logvar[1, 1, 1, 1] = math.inf  # a clamp would make 20 of it
    statistics = measured(mean, logvar, cuts=(3,))
    got = statistics.to_dict()
    assert (got["images"], got["nonfinite_images"], got["nonfinite_values"]) == (4, 2, 4)
    assert got["sample"] == clean["sample"]
    assert got["kl_nats_per_channel"] == clean["kl_nats_per_channel"]
    with pytest.raises(ValueError, match="2 of 6 images gave latents that are not finite"):
        statistics.scaling()


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="no latents to describe"):
        LatentStatistics().to_dict()
    constant = measured(torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), cuts=())
    with pytest.raises(ValueError, match=r"the mode latents' standard deviation is 0\.0"):
        constant.scaling("mode")
    assert constant.scaling() == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"must be \[1\] as before, got \[3\]"):
        constant.update(*posteriors(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"must be \[B, c, h, w\] of one shape"):
        constant.update(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))


def test_sums_come_back_from_json_to_the_last_bit() -> None:
    sums = LatentSums.of(torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4))
    assert LatentSums.from_json(sums.to_json()).to_json() == sums.to_json()
