"""Evaluation of tiny real models: what is measured, what merges, and what a person is warned of."""

import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from latent_ae.config import EvaluationConfig
from latent_ae.errors import UserError
from latent_ae.evaluation.evaluate import Evaluator, Networks, evaluate, measure_latents
from latent_ae.evaluation.perceptual import build_perceptual, distance_of
from latent_ae.evaluation.report import EvaluationReport, comparison
from latent_ae.evaluation.report_warnings import baseline_warnings, level_warnings
from latent_ae.evaluation.run import build_networks
from latent_ae.io.image import WHITE
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import factor_of

WORDS = {"data": "noise, held-out", "size_rule": "own size"}


@pytest.fixture
def model() -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 2, "layers_per_block": 1}
    return AutoencoderKL(**blocks, **sizes)


def images(count: int, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def batches(count: int = 10) -> list[tuple[Tensor, list[str]]]:
    pixels = images(count)
    return [(pixels[a:b], [f"image/{i:03}" for i in range(a, b)]) for a, b in pairwise(range(0, count + 1, 2))]


def set_posterior(model: AutoencoderKL, *, gain: float, logvar: tuple[float, float] = (0.0, 0.0)) -> None:
    """Posterior means as the encoder gives them times `gain` per channel, and constant logvars."""
    with torch.no_grad():
        model.quant_conv.weight.zero_()
        model.quant_conv.weight[:2, :2, 0, 0] = torch.eye(2) * gain
        model.quant_conv.bias.copy_(torch.tensor([0.0, 0.0, *logvar]))


def value(report: EvaluationReport, name: str) -> float:
    found = report.metrics[name].value
    assert found is not None
    return found


def test_the_numbers_are_those_of_the_stock_model(model: AutoencoderKL) -> None:
    perceptual = build_perceptual("random_features", image_channels=3)
    pixels = images(4)
    report = evaluate(Evaluator(model, networks=Networks(perceptual), **WORDS), [(pixels, list("abcd"))])
    with torch.no_grad():
        posterior = model.eval().encode(pixels).latent_dist
        rebuilt = model.decode(posterior.mode()).sample.clamp(-1, 1)
        distance = perceptual(rebuilt, pixels)
    psnrs = [peak_signal_noise_ratio(pixels[i].numpy(), rebuilt[i].numpy(), data_range=2) for i in range(4)]
    nats = float(posterior.kl().mean())
    assert value(report, "psnr") == pytest.approx(sum(psnrs) / 4, rel=1e-5)
    assert value(report, "l1") == pytest.approx(float((rebuilt - pixels).abs().mean()), rel=1e-5)
    assert value(report, "perceptual") == pytest.approx(float(distance.mean()), rel=1e-5)
    assert value(report, "kl_nats") == pytest.approx(nats, rel=1e-5)
    assert value(report, "kl_bits_per_pixel") == pytest.approx(nats / math.log(2) / 256, rel=1e-5)
    assert report.latents is not None
    assert report.latents["mode"]["std"] == pytest.approx(float(posterior.mean.std(correction=0)), rel=1e-5)
    assert report.latents["kl_nats_per_image"] == pytest.approx(nats, rel=1e-5)
    assert report.latents["scaled"]["std"] == pytest.approx(report.latents["sample"]["std"] * 0.18215)
    assert value(report, "active_units") == report.latents["active_units"]["share"]
    assert report.metrics["perceptual"].protocol == perceptual.protocol
    assert report.protocol["data"] == "noise, held-out"


def test_the_model_gets_its_modes_back(model: AutoencoderKL) -> None:
    model.train()
    model.encoder.eval()
    seen = []
    model.decoder.register_forward_hook(lambda *_: seen.append((model.training, torch.is_inference_mode_enabled())))
    evaluate(Evaluator(model, **WORDS), batches(2))
    assert seen == [(False, True)]
    assert model.training
    assert model.decoder.conv_in.training
    assert not model.encoder.conv_in.training
    with pytest.raises(RuntimeError):
        measure_latents(model.to("meta"), batches(2))
    assert model.training


@pytest.mark.parametrize("mode", ["mode", "sample"])
def test_shards_equal_one_process_exactly(model: AutoencoderKL, mode: str) -> None:
    perceptual = build_perceptual("random_features", image_channels=3)
    whole = evaluate(Evaluator(model, mode=mode, networks=Networks(perceptual), **WORDS), batches())
    for order in ([0, 1, 2], [2, 1, 0]):
        shards = [Evaluator(model, mode=mode, networks=Networks(perceptual), **WORDS) for _ in range(3)]
        for rank, shard in enumerate(shards):
            for batch in batches()[rank::3]:
                shard.update(*batch)
        first, *others = [shards[rank] for rank in order]
        for other in others:
            first.measurements.merge(pickle.loads(pickle.dumps(other.measurements)))
        assert first.measurements.report() == whole
        assert sorted(first.measurements.rows) == [f"image/{i:03}" for i in range(10)]
        assert whole.metrics["psnr"].images == 10


def test_sampled_latents_follow_from_the_id_alone(model: AutoencoderKL) -> None:
    set_posterior(model, gain=0.0, logvar=(math.log(9), math.log(9)))
    drawn: list[Tensor] = []
    model.post_quant_conv.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0]))
    names = ["a", "b", "not utf-8 \udcff"]

    def latents(order: list[int], seed: int = 0) -> Tensor:
        drawn.clear()
        evaluator = Evaluator(model, mode="sample", seed=seed, **WORDS)
        for i in order:
            evaluator.update(images(1), [names[i]])
        assert evaluator.measurements.protocol["latents"] == f"posterior sample, seed {seed}"
        return torch.cat([drawn[order.index(i)] for i in range(3)])

    first = latents([0, 1, 2])
    assert torch.equal(first, latents([2, 0, 1]))
    assert not torch.equal(first, latents([0, 1, 2], seed=1))
    assert not torch.equal(first[0], first[1])
    assert float(first.std()) == pytest.approx(3, rel=0.15)
    assert float(first.mean()) == pytest.approx(0, abs=0.5)


def test_sizes_that_the_factor_does_not_divide(model: AutoencoderKL) -> None:
    assert factor_of(model) == 2
    pixels = images(1, 13, 18)
    report = evaluate(Evaluator(model, **WORDS), [(pixels, ["odd"]), (images(1), ["even"])])
    padded = torch.cat([pixels, pixels[:, :, -1:]], 2)
    with torch.no_grad():
        posterior = model.encode(padded).latent_dist
        rebuilt = model.decode(posterior.mode()).sample[:, :, :13]
    evaluator = Evaluator(model, **WORDS)
    evaluator.update(pixels, ["odd"])
    row = evaluator.measurements.rows["odd"]
    assert row["l1"] == pytest.approx(float((rebuilt.clamp(-1, 1) - pixels).abs().mean()), rel=1e-5)
    assert row["kl_bits_per_pixel"] == pytest.approx(float(posterior.kl()) / math.log(2) / (13 * 18), rel=1e-5)
    assert report.latents is not None
    assert report.latents["latent_shape"] is None


def test_what_small_images_do_not_allow_is_null_with_a_reason(model: AutoencoderKL) -> None:
    report = evaluate(Evaluator(model, networks=Networks("vgg weights are missing"), **WORDS), batches(2))
    stored = json.loads(report.to_json())["metrics"]
    assert stored["ms_ssim"]["value"] is None
    assert stored["ms_ssim"]["reason"] == "no image has sides of at least 176 pixels"
    assert stored["perceptual"]["reason"] == "vgg weights are missing"
    assert stored["psnr"]["unit"] == "dB"
    assert "data range 2" in stored["psnr"]["protocol"]
    assert "ms_ssim                - (no image has sides" in report.summary()
    assert not any("ms_ssim" in warning for warning in report.warnings)


def test_ms_ssim_is_the_mean_over_the_images_that_have_it(model: AutoencoderKL) -> None:
    evaluator = Evaluator(model, **WORDS)
    for batch in [(images(1, 176, 176), ["large"]), *batches(4)]:
        evaluator.update(*batch)
    found = evaluator.measurements.report().metrics
    assert found["ms_ssim"].value == evaluator.measurements.rows["large"]["ms_ssim"]
    assert (found["ms_ssim"].images, found["psnr"].images) == (1, 5)


def test_identical_images_count_as_100_db(model: AutoencoderKL) -> None:
    with torch.no_grad():
        model.decoder.conv_out.weight.zero_()
        model.decoder.conv_out.bias.fill_(0.5)
    grey = torch.full((2, 3, 16, 16), 0.5)
    grey[1] = 0.3  # 40 dB - 20 dB
    report = evaluate(Evaluator(model, **WORDS), [(grey, ["same", "other"])])
    assert value(report, "psnr") == pytest.approx((100 + 20) / 2, abs=1e-4)


def test_posterior_collapse_is_told(model: AutoencoderKL) -> None:
    set_posterior(model, gain=0.0)
    report = evaluate(Evaluator(model, **WORDS), batches())
    assert value(report, "kl_nats") == 0
    assert value(report, "active_units") == 0
    collapse = [warning for warning in report.warnings if warning.startswith("posterior collapse")]
    assert len(collapse) == 1
    for remedy in ("loss.beta", "loss.beta_schedule", "loss.free_bits"):
        assert remedy in collapse[0]
    assert collapse[0] in report.summary()


def test_a_healthy_model_gives_no_warning_beyond_that_of_its_untrained_decoder(model: AutoencoderKL) -> None:
    set_posterior(model, gain=3.0, logvar=(-8.0, -8.0))
    measured = measure_latents(model, batches()).scaling()
    model.register_to_config(scaling_factor=measured.scaling_factor, shift_factor=measured.shift_factor)
    report = evaluate(Evaluator(model, **WORDS), batches())
    assert [warning.split(":")[0] for warning in report.warnings] == ["the model keeps hardly any detail"]
    assert report.latents is not None
    assert report.latents["scaled"]["std"] == pytest.approx(1)
    assert report.latents["scaled"]["mean"] == pytest.approx(0, abs=1e-6)


def test_small_latents_with_smaller_noise_are_no_collapse(model: AutoencoderKL) -> None:
    """Burda's threshold is absolute; an encoder without a KL term may put everything below it."""
    set_posterior(model, gain=0.01, logvar=(-20.0, -20.0))
    report = evaluate(Evaluator(model, **WORDS), batches())
    assert value(report, "active_units") == 0
    assert [warning.split(":")[0][:14] for warning in report.warnings] == ["the model keep", "scaled latents"]


def test_nearly_constant_images_are_remarked_on_however_high_the_psnr(model: AutoencoderKL) -> None:
    with torch.no_grad():
        model.decoder.conv_out.weight.mul_(0.01)
        model.decoder.conv_out.bias.fill_(-0.98)
    dark = images(4) * 0.002 - 0.99
    report = evaluate(Evaluator(model, **WORDS), [(dark, list("abcd"))])
    assert value(report, "psnr") > 35
    means = [
        peak_signal_noise_ratio(d.numpy(), d.mean((1, 2), keepdim=True).expand_as(d).numpy(), data_range=2)
        for d in dark
    ]
    assert value(report, "flat_psnr") == pytest.approx(sum(means) / 4, rel=1e-4)
    assert any("flat images of the images' own mean colour would have" in warning for warning in report.warnings)
    constant = evaluate(Evaluator(model, **WORDS), [(torch.full((1, 3, 16, 16), -0.99), ["a"])])
    assert value(constant, "flat_psnr") == 100
    assert any("nearly constant or much too dark" in warning for warning in constant.warnings)


def constant_model(channels: int, value: float) -> AutoencoderKL:
    """A model that decodes everything to one value."""
    model = AutoencoderKL(channels, channels, block_out_channels=(4,), norm_num_groups=2, latent_channels=2)
    with torch.no_grad():
        model.decoder.conv_out.weight.zero_()
        model.decoder.conv_out.bias.fill_(value)
    return model


def noise(channels: int, count: int = 3) -> Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_errors_of_numbers_are_in_their_own_units() -> None:
    """Half of each channel's range in place of the values, none of them rounded to the file's integers."""
    pixels, ids = noise(2), list("abc")
    form = PixelFormat(2, numbers=True, dtype="int16", ranges=((-1000.0, 3000.0), (0.0, 10.0)), unit="HU")
    report = evaluate(Evaluator(constant_model(2, 0.0), pixels=form, **WORDS), [(pixels, ids)])
    shares = (pixels.double().numpy() + 1) / 2
    errors = np.stack([np.abs(shares[:, 0] - 0.5) * 4000, np.abs(shares[:, 1] - 0.5) * 10], axis=1)
    found = report.metrics
    assert value(report, "mae") == pytest.approx(errors.mean(), rel=1e-6)
    assert value(report, "rmse") == pytest.approx(np.sqrt(np.square(errors).mean((1, 2, 3))).mean(), rel=1e-6)
    assert value(report, "max_error") == pytest.approx(errors.max(), rel=1e-6)
    assert {found[name].unit for name in ("mae", "rmse", "max_error")} == {"HU"}
    assert "int16 in -1000..3000, 0..10 HU" in found["mae"].protocol
    assert "mae                    " in report.summary()
    pictures = evaluate(Evaluator(constant_model(2, 0.0), **WORDS), [(pixels, ids)])
    assert "mae" not in pictures.metrics
    assert pictures.metrics["psnr"] == found["psnr"]


def test_a_perceptual_distance_sees_the_stated_channels_and_psnr_sees_all() -> None:
    pixels, ids, model = noise(5), list("abc"), constant_model(5, 0.25)
    distance = build_perceptual("random_features", image_channels=3)
    reports = {}
    for rgb in (3, 2, 1), (1, 2, 3):
        form = PixelFormat(5, numbers=True, ranges=((0.0, 1.0),), rgb=rgb)
        seeing = distance_of("random_features", form, background=WHITE, weights_file=None, setting="")
        reports[rgb] = evaluate(Evaluator(model, pixels=form, networks=Networks(seeing), **WORDS), [(pixels, ids)])
    wanted = float(distance(torch.full((3, 3, 16, 16), 0.25), pixels[:, [2, 1, 0]]).mean())
    swapped, straight = reports[3, 2, 1], reports[1, 2, 3]
    assert value(swapped, "perceptual") == pytest.approx(wanted, rel=1e-6)
    assert value(straight, "perceptual") != pytest.approx(wanted, rel=1e-3)
    assert swapped.metrics["psnr"] == straight.metrics["psnr"]
    assert swapped.metrics["perceptual"].protocol == f"{distance.protocol}, of channels 3, 2, 1"
    assert swapped.psnr_by_channel == pytest.approx(
        [float((10 * torch.log10(4 / (pixels[:, c] - 0.25).square().mean((1, 2)))).mean()) for c in range(5)], rel=1e-5
    )
    assert "PSNR by channel" in swapped.summary()


def test_a_perceptual_distance_sees_transparent_images_over_the_background() -> None:
    pixels, distance = noise(4), build_perceptual("random_features", image_channels=3)
    form = PixelFormat.picture(4)
    seeing = distance_of("random_features", form, background=(0, 255, 0), weights_file=None, setting="")
    report = evaluate(Evaluator(constant_model(4, 0.0), networks=Networks(seeing), **WORDS), [(pixels, list("abc"))])
    green = torch.tensor([-1.0, 1.0, -1.0]).view(1, 3, 1, 1)
    opacity = (pixels[:, 3:] + 1) / 2
    over = pixels[:, :3] * opacity + green * (1 - opacity)
    half = (torch.zeros(1, 3, 1, 1) + green) / 2
    wanted = float(distance(half.expand(3, 3, 16, 16), over).mean())
    assert value(report, "perceptual") == pytest.approx(wanted, rel=1e-5)
    assert report.metrics["perceptual"].protocol.endswith(", of channels 1, 2, 3 over the background")
    assert report.psnr_by_channel is not None
    assert len(report.psnr_by_channel) == 4


def test_the_channels_to_compare_have_to_be_chosen() -> None:
    five = PixelFormat(5, numbers=True)
    with pytest.raises(UserError) as error:
        distance_of("vgg", five, background=WHITE, weights_file=None, setting="loss.perceptual")
    assert str(error.value) == (
        "loss.perceptual vgg compares 1 (grey) or 3 (RGB) channels, and the images have 5: give evaluation.rgb, the "
        "channels to compare, counted from 1, such as --evaluation.rgb 3 2 1"
    )
    with pytest.raises(UserError, match=r"^evaluation\.fid compares 1"):
        build_networks(EvaluationConfig(fid=True), five, WHITE)
    grey = build_networks(EvaluationConfig(perceptual="random_features"), five.replace(rgb=(5,)), WHITE)
    assert not isinstance(grey.perceptual, str)
    assert grey.perceptual.protocol.endswith("1 channels, of channels 5")
    pixels = noise(5)
    assert torch.equal(
        grey.perceptual(pixels, pixels.flip(3)),
        build_perceptual("random_features", image_channels=1)(pixels[:, 4:], pixels[:, 4:].flip(3)),
    )


def test_images_that_are_much_alike_are_remarked_on() -> None:
    """Two levels and little noise: the mean of the other images is as near to an image as a good model."""
    alike = torch.where(torch.arange(16) < 8, -0.9, 0.9).expand(4, 1, 16, 16) + noise(1, 4) * 0.01
    report = evaluate(Evaluator(constant_model(1, 0.0), **WORDS), [(alike, list("abcd"))])
    others = [torch.cat([alike[:i], alike[i + 1 :]]).mean(0) for i in range(4)]
    mse = float(torch.stack([(alike[i] - others[i]).square().mean() for i in range(4)]).mean())
    assert value(report, "mean_image_psnr") == pytest.approx(10 * math.log10(4 / mse), abs=1e-4)
    assert value(report, "mean_image_psnr") > value(report, "flat_psnr") + 30
    assert report.metrics["mean_image_psnr"].protocol.startswith("as psnr, of the mean squared error over all images")
    assert baseline_warnings(40.0, 10.0, 42.0, 39.0)[0].startswith(
        "the model is hardly better than the mean of the other images: over all values its PSNR is 39 dB, that of the "
        "mean 42 dB"
    )
    assert baseline_warnings(40.0, 10.0, 36.0, 39.1) == []
    one = evaluate(Evaluator(constant_model(1, 0.0), **WORDS), [(alike[:1], ["a"])])
    assert one.metrics["mean_image_psnr"].reason == "there is only one image"


def test_images_of_few_levels_are_counted() -> None:
    masks = (noise(1, 4) > 0).float() * 2 - 1
    masks[3] = noise(1, 1)[0]
    report = evaluate(Evaluator(constant_model(1, 0.0), **WORDS), [(masks, list("abcd"))])
    (warning,) = [warning for warning in report.warnings if "levels" in warning]
    assert warning.startswith("3 of 4 images use at most 17 of 256 levels between black and white (the median image 2)")
    assert warning.endswith(
        "masks, labels and pixel art do; other images are much too dark or flat, and their PSNR says little"
    )
    wide = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),))
    (warning,) = level_warnings([16, 3, 200], wide)
    assert warning.endswith(
        "the range of 1 channel, uint16 in 0..65535 is too wide: give a narrower data.value_range, or data.percentiles"
    )
    assert level_warnings([18, 200, 3], wide) == level_warnings([], wide) == []


def test_images_that_could_not_be_used_are_counted(model: AutoencoderKL) -> None:
    report = evaluate(Evaluator(model, **WORDS), batches(4))
    assert report.with_unusable([], 4) is report
    assert report.with_unusable(["x.png", "y.png"], 6).warnings[-1] == (
        "2 of 6 images are unusable and not in these numbers, the first of them 'x.png'"
    )


def test_dead_channels_are_named(model: AutoencoderKL) -> None:
    set_posterior(model, gain=3.0, logvar=(-8.0, 0.0))
    with torch.no_grad():
        model.quant_conv.weight[1] = 0
    report = evaluate(Evaluator(model, **WORDS), batches())
    dead = [warning for warning in report.warnings if "dead" in warning]
    assert dead[0].startswith("1 of 2 latent channels are dead (channel 1: no active unit)")
    assert not any("collapse" in warning for warning in report.warnings)


def test_a_noisy_channel_with_active_units_is_not_dead(model: AutoencoderKL) -> None:
    set_posterior(model, gain=3.0, logvar=(-8.0, 2.0))
    report = evaluate(Evaluator(model, **WORDS), batches())
    assert report.latents is not None
    assert report.latents["channel_signal_to_noise"][1] < 1
    assert report.latents["active_units"]["share_per_channel"][1] > 0
    assert not any("dead" in warning for warning in report.warnings)


def test_a_scaling_factor_that_does_not_fit_is_told(model: AutoencoderKL) -> None:
    set_posterior(model, gain=3.0, logvar=(-8.0, -8.0))
    scale = measure_latents(model, batches(4)).scaling().scaling_factor
    for factor, warned in {0.81: False, 0.79: True, 1.24: False, 1.26: True}.items():
        model.register_to_config(scaling_factor=scale * factor)
        found = [w for w in evaluate(Evaluator(model, **WORDS), batches(4)).warnings if w.startswith("scaled latents")]
        assert bool(found) == warned
        if found:
            assert f"where 1/std is {scale:.5g}" in found[0]


def test_values_that_are_not_finite_do_not_hide(model: AutoencoderKL) -> None:
    with torch.no_grad():
        model.decoder.conv_out.bias[0] = math.nan
    report = evaluate(Evaluator(model, **WORDS), batches(4))
    assert report.metrics["psnr"].value is None
    assert report.metrics["psnr"].reason == (
        "4 of 4 images gave values that are not finite, the first of them 'image/000'"
    )
    assert report.metrics["kl_nats"].value is not None
    assert any(warning.startswith("no psnr: 4 of 4 images") for warning in report.warnings)
    with torch.no_grad():
        model.encoder.conv_out.bias[0] = math.nan
    report = evaluate(Evaluator(model, **WORDS), batches(4))
    assert report.latents is None
    assert any(warning.startswith("no kl_nats: 4 of 4 images") for warning in report.warnings)
    json.loads(report.to_json())
    assert None in report.color_bias  # and not 0, which would be perfect
    table = comparison({"sound": evaluate(Evaluator(constant_model(3, 0.0), **WORDS), batches(4)), "broken": report})
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.startswith("  ")}
    assert (rows["psnr"][-1], rows["active_units"][-1], rows["images"]) == ("-", "-", ["4", "4"])


def test_what_cannot_be_measured_is_refused(model: AutoencoderKL) -> None:
    evaluator = Evaluator(model, **WORDS)
    with pytest.raises(ValueError, match="nothing was measured"):
        evaluator.measurements.report()
    for pixels, expected in {
        images(1)[:, :1]: r"must be \[B, 3, H, W\] float32, got \(1, 1, 16, 16\)",
        images(1).double(): "torch.float64",
        (images(1) + 1) * 127.5: r"must be in \[-1, 1\], got .* to 25",
        images(1) * math.nan: r"must be in \[-1, 1\], got nan",
        images(0): r"got \(0, 3, 16, 16\)",
    }.items():
        with pytest.raises(ValueError, match=expected):
            evaluator.update(pixels, ["a"])
        with pytest.raises(ValueError, match=expected):
            measure_latents(model, [(pixels, ["a"])])
    with pytest.raises(ValueError, match="got 2 images and 1 ids"):
        evaluator.update(images(2), ["a"])
    with pytest.raises(ValueError, match="mode must be mode or sample, got 'mean'"):
        Evaluator(model, mode="mean", **WORDS)


def test_an_image_is_measured_once(model: AutoencoderKL) -> None:
    evaluator, other = Evaluator(model, **WORDS), Evaluator(model, **WORDS)
    evaluator.update(images(2), ["a", "b"])
    other.update(images(1), ["b"])
    with pytest.raises(ValueError, match="'b' is here already: shard the data set without padding"):
        evaluator.measurements.merge(other.measurements)
    with pytest.raises(ValueError, match="'a' is here already"):
        evaluator.update(images(1), ["a"])
    with pytest.raises(ValueError, match="an id occurs twice"):
        evaluator.update(images(2), ["c", "c"])
    assert evaluator.measurements.report().images == 2
    with pytest.raises(ValueError, match="must follow one protocol"):
        evaluator.measurements.merge(Evaluator(model, mode="sample", **WORDS).measurements)
