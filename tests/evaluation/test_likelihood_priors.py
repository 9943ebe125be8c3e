"""Likelihoods under a prior other than N(0, I)."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from latent_ae.cli import main
from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.parts import encoder_identity
from tests.evaluation.test_likelihood import FEW, estimator, images, measured, names, report_of, tiny


def prior_of(model: AutoencoderKL, *, moved: float = 0.0, side: int = 4) -> HierarchicalPrior:
    """A prior of the model's latents of 8x8 pixels; `moved` from its start, where it is N(0, I)."""
    torch.manual_seed(0)
    channels = model.config["latent_channels"]
    prior = HierarchicalPrior(channels=channels, side=side, width=8, encoder_identity=encoder_identity(model))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(moved * torch.randn_like(parameter))
    return prior.eval()


def test_a_prior_that_is_n01_gives_the_bounds_of_n01() -> None:
    model, pixels = tiny(), images(2)
    made = estimator(model, 8, prior=prior_of(model), prior_name="a prior")
    made.update(pixels, names(2))
    report, plain = made.report(), measured(model, pixels, 8)
    assert report.reconstruction == plain.reconstruction, "the draws are the same"
    for draws, bound in plain.iwae.items():
        assert report.iwae[draws].nats == pytest.approx(bound.nats, rel=1e-6)
    assert report.elbo.nats == pytest.approx(plain.iwae[1].nats, rel=1e-6)
    assert report.protocol["prior"] == "a prior over raw latents"
    assert "the mean of log q(z|x) - log p(z)" in report.protocol["bounds"]
    assert "a learned prior in float32" in report.protocol["precision"]
    assert plain.protocol["prior"] == "N(0, I) over raw latents"


def test_each_draw_of_each_image_has_its_own_noise_above() -> None:
    model, seen = tiny(), []
    prior = prior_of(model, moved=0.1)
    prior.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].clone()))
    estimator(model, 3, prior=prior).update(images(1), ["a"])
    made = estimator(model, 5, prior=prior)
    made.update(images(2), ["b", "a"])
    few, of_another, many = seen
    assert torch.equal(few, many[:3])
    assert len({float(noise.sum()) for noise in (*many, *of_another)}) == 10
    again = estimator(model, 5, prior=prior)
    again.update(images(2), ["b", "a"])
    assert again.report() == made.report()


def test_the_noise_above_is_of_the_seed_and_the_draw_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels, drawn, seen = tiny(logvar=0.0), images(1), [], []
    with torch.no_grad():  # mean 0 and variance 1: raw latents are their own noise
        model.quant_conv.weight.zero_()
        model.quant_conv.bias.zero_()
    prior = prior_of(model)
    prior.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0].clone()))
    prior.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].clone()))
    for seed in (0, 1):
        estimator(model, 5, seed=seed, prior=prior).update(pixels, ["a"])
    monkeypatch.setattr("latent_ae.evaluation.metrics.likelihood_bounds.PIXELS_PER_CALL", 2 * 64)
    estimator(model, 5, prior=prior).update(pixels, ["a"])
    whole, of_another_seed, *pieces = seen
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert torch.equal(torch.cat(pieces), whole)
    assert not torch.isin(of_another_seed, whole).any()
    assert not torch.isin(drawn[0], whole).any()


def test_a_prior_of_another_size_is_refused() -> None:
    model = tiny()
    with pytest.raises(UserError, match=r"'a' has latents of 2x4x4, and the prior is one of 2x8x8: .*size 16"):
        estimator(model, prior=prior_of(model, side=8)).update(images(1), ["a"])


def test_the_command_names_the_prior_and_wants_one_of_the_models_own_latents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny().save_pretrained(tmp_path / "kl")
    codes = VQConfig(codebook_size=8, code_channels=2)
    build_autoencoder(ModelConfig(preset="tiny"), codes, seed=0, resolution=16).save_pretrained(tmp_path / "vq")
    own, other, size = str(tmp_path / "own"), str(tmp_path / "other"), ["--std", "0.5", "--evaluation.size", "8"]
    prior_of(tiny()).save_pretrained(own)
    prior_of(tiny(logvar=-1.0)).save_pretrained(other)
    report = report_of(tmp_path, tmp_path / "report.json", *size, "--prior", own)
    assert report["protocol"]["prior"] == f"the hierarchical prior {own} over raw latents"
    capsys.readouterr()
    refused = f"the prior {other} is of the latents of the encoder {encoder_identity(tiny(logvar=-1.0))}"
    for model, prior, message in (("kl", other, refused), ("vq", own, "those of a VQModel are codes")):
        assert main(["likelihood", str(tmp_path / model), *FEW, *size, "--prior", prior]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert message in line
