"""Likelihoods of tiny real models: what is reported, what it does not depend on, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.cli import main
from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.evaluation.likelihood import LikelihoodEstimator, fit_std
from latent_ae.evaluation.metrics import likelihood_bounds
from latent_ae.evaluation.metrics.likelihood_bounds import log_probability
from latent_ae.evaluation.report import LikelihoodReport
from latent_ae.evaluation.run import NOT_OF_LIKELIHOOD
from latent_ae.inference import strips
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig

WORDS = {"std_rule": "given", "data": "noise", "size_rule": "own size"}
FEW = ["--data.source", "digits", "--evaluation.max_images", "3"]


def tiny(logvar: float = -2.0) -> AutoencoderKL:
    """An untrained model (factor 2, grey) whose decoder listens to its latents; all posterior variances are alike."""
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    channels = model.config["latent_channels"]
    with torch.no_grad():
        model.quant_conv.weight[channels:] = 0
        model.quant_conv.bias[channels:] = logvar
    return model


def images(count: int, height: int = 8, width: int = 8) -> Tensor:
    shape = (count, 1, height, width)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).float() / 127.5 - 1


def names(count: int) -> list[str]:
    return [f"image/{i}" for i in range(count)]


def estimator(
    model: AutoencoderKL, samples: int = 4, std: float = 0.5, seed: int = 0, **prior: Any
) -> LikelihoodEstimator:
    return LikelihoodEstimator(model, std=std, samples=samples, seed=seed, **WORDS, **prior)


def measured(model: AutoencoderKL, pixels: Tensor, samples: int, std: float = 0.5, seed: int = 0) -> LikelihoodReport:
    made = estimator(model, samples, std, seed)
    made.update(pixels, names(len(pixels)))
    return made.report()


def test_batches_and_order_do_not_show() -> None:
    model, pixels, ids = tiny(), images(5), names(5)
    whole = measured(model, pixels, 6)
    pieces = estimator(model, 6)
    for i in (4, 2):
        pieces.update(pixels[[i]], [ids[i]])
    pieces.update(pixels[[3, 0, 1]], [ids[3], ids[0], ids[1]])
    assert pieces.report() == whole
    assert measured(model, pixels, 6) == whole
    assert measured(model, pixels, 6, seed=1) != whole
    assert list(pieces.per_image) == ids


def test_more_draws_begin_with_the_fewer() -> None:
    model, pixels = tiny(), images(1)
    drawn: list[Tensor] = []
    hook = model.post_quant_conv.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0].clone()))
    measured(model, pixels, 3)
    estimator(model, 8).update(pixels.expand(2, 1, 8, 8), names(2))
    hook.remove()
    few, many, of_another = drawn
    assert torch.equal(few, many[:3])
    assert len({float(z.sum()) for z in (*many, *of_another)}) == 16, "each draw of each image has its own noise"


def test_one_draw_agrees_with_the_elbo_of_the_stock_model() -> None:
    model, pixels, draws = tiny(), images(2), 600
    report = measured(model, pixels, draws)
    with torch.no_grad():
        posterior = model.eval().encode(pixels).latent_dist
        generator = torch.Generator().manual_seed(9)
        z = [posterior.sample(generator=generator) for _ in range(draws)]
        log_px = torch.stack(
            [log_probability(((pixels + 1) * 127.5).round(), model.decode(one).sample, 0.5) for one in z]
        )
    sums = log_px.sum((2, 3, 4))
    error = float(sums.std(0).mean()) / math.sqrt(2 * draws)
    assert report.kl.nats == pytest.approx(float(posterior.kl().mean()), rel=1e-5)
    assert report.reconstruction.nats == pytest.approx(float(sums.mean()), abs=6 * error)
    assert report.elbo.nats == pytest.approx(report.reconstruction.nats - report.kl.nats, rel=1e-12)
    latents = z[0][0].numel()
    assert report.iwae[1].nats == pytest.approx(report.elbo.nats, abs=6 * math.sqrt(latents / 2 / draws))
    assert [*report.iwae] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    assert report.iwae[1].nats < report.iwae[8].nats < report.iwae[512].nats


def test_large_images_go_through_in_strips_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = tiny(), images(2, 33, 26)
    whole = measured(model, pixels, 3)
    std, count = fit_std(model, [(pixels, names(2))])
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(likelihood_bounds, "_VALUES_AT_ONCE", 100)
    made = estimator(model, 3, pixels_at_once=1)
    made.update(pixels, names(2))
    report = made.report()
    assert report.elbo.nats == pytest.approx(whole.elbo.nats, rel=1e-6)
    assert report.iwae[3].nats == pytest.approx(whole.iwae[3].nats, rel=1e-6)
    assert fit_std(model, [(pixels, names(2))], pixels_at_once=1) == (pytest.approx(std, rel=1e-5), count)


def test_bits_are_of_each_images_own_dimensions() -> None:
    model = tiny()
    made = estimator(model)
    made.update(images(1, 7, 5), ["odd"])
    made.update(images(1), ["even"])
    report, rows = made.report(), made.per_image
    assert (rows["odd"].dimensions, rows["even"].dimensions) == (35, 64)
    bits = [-row.bounds[4] / (row.dimensions * math.log(2)) for row in rows.values()]
    assert report.iwae[4].bits_per_dimension == pytest.approx(sum(bits) / 2)
    sum_of_parts = report.reconstruction.bits_per_dimension + report.kl.bits_per_dimension
    assert report.elbo.bits_per_dimension == pytest.approx(sum_of_parts)
    assert report.kl.bits_per_dimension > 0
    last = [row.bounds[4] for row in rows.values()]
    assert report.standard_error_nats == pytest.approx(abs(last[0] - last[1]) / 2)
    assert "the image's own pixels" in report.protocol["padding"]


def test_the_padding_is_that_of_encoding_and_is_not_counted() -> None:
    model, pixels = tiny(logvar=-29.9), images(1, 7, 5)
    padded = torch.nn.functional.pad(pixels, (0, 1, 0, 1), mode="replicate")
    with torch.no_grad():
        decoded = model.eval().decode(model.encode(padded).latent_dist.mode()).sample[..., :7, :5]
    expected = float(log_probability(((pixels + 1) * 127.5).round(), decoded, 0.5).sum())
    assert measured(model, pixels, 1).reconstruction.nats == pytest.approx(expected, rel=1e-4)


def test_a_loose_bound_is_said_and_a_tight_one_is_not() -> None:
    pixels = images(2)
    (warning,) = measured(tiny(logvar=3.0), pixels, 64, std=0.05).warnings
    assert warning.startswith("the bound is loose: of 64 draws an image about 1")
    assert measured(tiny(logvar=3.0), pixels, 1, std=0.05).warnings == ()
    with torch.no_grad():  # the prior as posterior, and pixels that tell nothing
        ignorant = tiny(logvar=0.0)
        ignorant.quant_conv.weight.zero_()
        ignorant.quant_conv.bias.zero_()
    report = measured(ignorant, pixels, 64, std=100.0)
    assert report.warnings == ()
    assert report.effective_share > 0.9


def test_the_fitted_std_is_the_best_there_is() -> None:
    model, pixels = tiny(), images(6)
    std, count = fit_std(model, [(pixels[:4], names(6)[:4]), (pixels[4:], names(6)[4:])])
    assert count == 6
    best = measured(model, pixels, 1, std).elbo.nats
    for factor in (0.5, 0.97, 1.03, 2.0):
        assert measured(model, pixels, 1, std * factor).elbo.nats < best


def test_a_large_image_is_fitted_on_values_from_all_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, flat = tiny(), torch.full((1, 1, 16, 16), 1 / 255)
    batches = [(images(1, 64, 64), ["large"]), (flat, ["small"])]
    (whole, _), (without, _) = fit_std(model, batches), fit_std(model, batches[:1])
    monkeypatch.setattr("latent_ae.evaluation.likelihood.FITTED_VALUES", 500)
    found, _ = fit_std(model, batches)
    assert found == pytest.approx(whole, rel=0.03)
    assert without > whole * 1.001


def test_variances_are_clamped_as_the_stock_model_clamps_them() -> None:
    assert measured(tiny(logvar=50.0), images(1), 2) == measured(tiny(logvar=20.0), images(1), 2)


def test_what_the_estimator_refuses() -> None:
    model, pixels = tiny(), images(1)
    made = estimator(model)
    with pytest.raises(UserError, match="nothing was measured"):
        made.report()
    made.update(pixels, ["a"])
    with pytest.raises(UserError, match="'a' is here already"):
        made.update(pixels, ["a"])
    with pytest.raises(ValueError, match="8-bit"):
        made.update(pixels * 0.9, ["b"])
    with pytest.raises(ValueError, match=r"must be \[B, 1, H, W\], got \[1, 3, 8, 8\]"):
        made.update(pixels.expand(1, 3, 8, 8), ["b"])
    with pytest.raises(UserError, match="no image of the training part"):
        fit_std(model, [])
    with torch.no_grad():
        model.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(UserError, match="'b': its likelihood is not finite"):
        made.update(pixels, ["b"])
    with pytest.raises(UserError, match="'b': its reconstruction is not finite"):
        fit_std(model, [(pixels, ["b"])])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny().save_pretrained(folder / "kl")
    tiny(logvar=-30.0).save_pretrained(folder / "plain")
    codes = VQConfig(codebook_size=8, code_channels=2)
    build_autoencoder(ModelConfig(preset="tiny"), codes, seed=0, resolution=16).save_pretrained(folder / "vq")
    return folder


def report_of(models: Path, file: Path, *more: str) -> dict:
    assert main(["likelihood", str(models / "kl"), *FEW, "--importance-samples", "4", "--json", str(file), *more]) == 0
    return json.loads(file.read_text())


def test_the_command_prints_and_writes(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(models, tmp_path / "fitted.json")
    out = capsys.readouterr().out
    assert report["images"] == 3
    assert [*report["iwae"]] == ["1", "2", "4"]
    assert f"{report['iwae']['4']['nats']:.2f}" in out
    assert f"{report['elbo']['bits_per_dimension']:.4f}" in out
    assert report["elbo"]["images"] == 3
    assert report["protocol"]["data"] == "digits, held-out part"
    assert report["protocol"]["std"].endswith("single-sample ELBO of 256 images of the training part")
    assert report_of(models, tmp_path / "again.json") == report
    assert report_of(models, tmp_path / "train.json", "--part", "train")["std"] == report["std"]
    given = report_of(models, tmp_path / "given.json", "--std", "0.5", "--part", "train", "--evaluation.size", "16")
    assert given["std"] == 0.5
    assert given["protocol"]["std"] == "0.5 on [-1, 1], given"
    assert given["protocol"]["data"] == "digits, training part"
    assert given["protocol"]["size_rule"].startswith("shorter side resized to 16")


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("kl", [], "give --data.path DIR, or --data.source, one of digits, photos"),
        ("kl", [*FEW, "--samples", "4"], "unknown option --samples; use --importance-samples"),
        ("kl", [*FEW, "--std", "0"], "std: got 0, expected 1e-06 to 1000"),
        ("kl", [*FEW, "--std", "-0.1"], "std: got -0.1"),
        ("kl", [*FEW, "--std", "nan"], "std: got nan"),
        ("kl", [*FEW, "--std", "inf"], "std: got inf"),
        ("kl", [*FEW, "--data.flip", "true"], "--data.flip only crops training images"),
        ("kl", [*FEW, "--json", "no/folder.json"], "the folder no does not exist"),
        ("vq", FEW, "a likelihood needs latents with a posterior, but those of a VQModel are codes"),
        ("plain", FEW, "this AutoencoderKL is a plain autoencoder"),
        ("kl", [*FEW, "--prior", "nowhere"], "cannot load a prior from nowhere"),
        *(
            ("kl", [*FEW, f"--evaluation.{name}", "1"], f"--evaluation.{name} has no effect on likelihood")
            for name in NOT_OF_LIKELIHOOD
        ),
    ],
)
def test_the_command_refuses(
    models: Path, model: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["likelihood", str(models / model), *more]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
