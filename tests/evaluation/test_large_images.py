"""Images of more than `pixels_at_once` are measured in strips and windows: the same report, in bounded memory."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.evaluation.evaluate import Evaluator, Networks, evaluate, measure_latents
from latent_ae.evaluation.metrics import baseline, large
from latent_ae.evaluation.perceptual import build_perceptual, distance
from latent_ae.evaluation.report import EvaluationReport
from latent_ae.inference import strips
from latent_ae.inference.memory import _Counter

WORDS = {"data": "noise, held-out", "size_rule": "own size"}


@pytest.fixture
def model() -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**blocks, block_out_channels=(4, 8), norm_num_groups=2, latent_channels=2, layers_per_block=1)


def batches(count: int, height: int, width: int) -> list[tuple[Tensor, list[str]]]:
    pixels = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return [(image[None], [f"image/{number}"]) for number, image in enumerate(pixels)]


def measured(model: AutoencoderKL, images: list[tuple[Tensor, list[str]]], pixels_at_once: int) -> EvaluationReport:
    networks = Networks(build_perceptual("random_features", image_channels=3))
    evaluator = Evaluator(
        model, networks, **WORDS, equivariance=True, mode="sample", seed=3, pixels_at_once=pixels_at_once
    )
    return evaluate(evaluator, images)


def test_the_report_is_that_of_images_at_once(model: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(large, "_STRIP_VALUES", 500)
    monkeypatch.setattr(distance, "_WINDOW", 32)
    images = batches(3, 45, 38)
    whole, found = (measured(model, images, pixels).model_dump(mode="json") for pixels in (1 << 20, 1))
    assert found == approximately(whole)


def approximately(tree: object) -> object:
    """The same tree of JSON, with numbers that need not be equal to the last digit."""
    if isinstance(tree, dict):
        return {name: approximately(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [approximately(value) for value in tree]
    return pytest.approx(tree, rel=1e-4, abs=1e-6) if isinstance(tree, float) else tree


def peak_bytes(model: AutoencoderKL, count: int) -> int:
    """Of all tensors that live at the same time while so many images are measured, one after the other."""
    networks = Networks(build_perceptual("random_features", image_channels=3))
    evaluator = Evaluator(model, networks, **WORDS, pixels_at_once=1)
    with _Counter(reorders=False, emulated=False) as counter:
        evaluate(evaluator, (batch for number in range(count) for batch in [(noise(number), [f"image/{number}"])]))
    return counter.peak


def noise(number: int) -> Tensor:
    return torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(number)) * 2 - 1


def test_memory_does_not_grow_with_the_number_of_images(model: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1 << 16)
    monkeypatch.setattr(baseline, "_MEAN_IMAGE_VALUES", 1)  # of smaller images a mean image is kept
    one, two, four = (peak_bytes(model, count) for count in (1, 2, 4))
    assert two == four
    assert two < one + 2 * noise(0).nbytes  # the image before, and statistics that are merged


def test_latents_of_large_images_are_measured_in_strips(model: AutoencoderKL) -> None:
    images = batches(2, 30, 26)
    whole, found = (measure_latents(model, images, pixels_at_once=pixels) for pixels in (1 << 20, 1))
    assert found.scaling() == pytest.approx(whole.scaling(), rel=1e-5)
