"""What a run says at its end."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.evaluation.metrics.quality import psnr
from latent_ae.evaluation.report import EvaluationReport, Metric
from latent_ae.models import build_autoencoder
from latent_ae.models.encode_decode import reconstruct
from latent_ae.training.closing import closing, lanczos_gain, scaled_and_back

MODEL = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).eval()
"""factor 2, grey, 2 latent channels: half as many values as pixels"""


def report(quality: float | None) -> EvaluationReport:
    metric = Metric(value=quality, unit="dB", protocol="", images=1, reason=None if quality is not None else "none")
    fields = {"latents": None, "codebook": None, "equivariance": None, "color_bias": (), "warnings": ()}
    return EvaluationReport(images=1, protocol={"data": "x"}, metrics={"psnr": metric}, **fields)


def ramp(height: int, width: int) -> Tensor:
    return torch.linspace(-1, 1, height * width).view(1, height, width)


def test_the_baseline_keeps_as_many_values() -> None:
    image = ramp(16, 16)
    assert torch.equal(scaled_and_back(image, 256), image)
    assert scaled_and_back(image, 1).std() == 0
    assert (scaled_and_back(image, 64) - image).abs().max() < 0.1  # a ramp survives halving, but for its edges


def test_the_gain_is_a_difference_of_psnr() -> None:
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours = psnr(reconstruct(MODEL, image[None]), image[None])
    theirs = psnr(scaled_and_back(image, 2 * 8 * 8)[None], image[None])
    assert lanczos_gain(MODEL, [image]) == pytest.approx(float(ours - theirs))
    assert lanczos_gain(MODEL, []) is None


@pytest.mark.parametrize(
    ("quality", "count", "words", "advice"),
    [
        (15.0, 1000, "15.0 dB: only large shapes and colours are kept, ", "More --train.steps would help"),
        (27.0, 12, "27.0 dB: recognisable, and fine detail is lost, ", "More images than 12 would help"),
        (29.96, None, "30.0 dB: recognisable, and fine detail is lost, ", "More --train.steps would help"),
        (40.0, 12, "40.0 dB: hardly to be told from the originals, ", ""),
    ],
)
def test_a_number_is_said_in_words_with_what_would_help(
    quality: float, count: int | None, words: str, advice: str
) -> None:
    said = closing(report(quality), MODEL, [ramp(16, 16)], training_images=count, folder=Path("runs/x/model"))
    assert said.startswith(f"held-out images come back at {words}")
    assert "dB below scaling to as many numbers and back (Lanczos). " in said
    assert advice in said
    assert ("would help" in said) == bool(advice)
    assert said.endswith("the model is in runs/x/model; to see it: latent-ae serve --model runs/x/model")


def test_without_a_number_the_place_is_said() -> None:
    said = closing(report(None), MODEL, [], training_images=1, folder=Path("m"))
    assert said == "the model is in m; to see it: latent-ae serve --model m"
