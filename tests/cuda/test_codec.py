"""The codec on a GPU: as close to float32 as it says, within what it predicted, and the same bits where it says so."""

from pathlib import Path

import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.evaluation.metrics.quality import psnr
from latent_ae.inference import Codec, Precision
from latent_ae.inference.probe_image import photo_like
from latent_ae.io.image import Pixels, from_tensor
from latent_ae.io.latent_file.latents import Compute
from latent_ae.models import Autoencoder, build_autoencoder
from tests.program.running import PYTHON, ROOT, launch


def model() -> Autoencoder:
    return build_autoencoder(ModelConfig(preset="sd"), seed=0, resolution=256).eval()


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return from_tensor(photo_like(3, 256))[0]


@pytest.fixture(scope="module")
def reference(picture: Pixels) -> torch.Tensor:
    return Codec(model(), name="cpu", precision="fp32").encode([picture])[0].tensor


@pytest.mark.parametrize("precision", ["exact", "fp32", "auto", "bf16", "fp16"])
def test_latents_and_pixels_are_those_of_a_cpu(precision: str, picture: Pixels, reference: torch.Tensor) -> None:
    codec = Codec(model().cuda(), name="gpu", precision=precision)  # type: ignore[arg-type]
    latents = codec.encode([picture])[0]
    error = float((latents.tensor - reference).norm() / reference.norm())
    assert error < {"exact": 1e-4, "fp32": 1e-4, "fp16": 0.01}.get(precision, 0.05), str(codec.precision)
    if precision == "auto":
        assert error < 0.015  # the check's own picture had 0.01
        for choice in (codec.precision.encoder, codec.precision.decoder):
            assert choice.precision in ("tf32", "bf16", "fp16"), str(choice)
    decoded = codec.decode([latents])[0]
    plain = Codec(model(), name="cpu", precision="fp32").decode([latents])[0]
    distance = psnr(torch.as_tensor(decoded).float()[None] / 255, torch.as_tensor(plain).float()[None] / 255)
    assert float(distance) > 40


def test_exact_gives_the_same_bits_in_any_company(picture: Pixels) -> None:
    codec = Codec(model().cuda(), name="gpu", precision="exact")
    alone = codec.encode([picture])[0].tensor
    third = codec.encode([picture[::-1].copy(), picture[:, ::-1].copy(), picture])[2].tensor
    assert torch.equal(alone, third)


def test_what_is_predicted_is_enough(picture: Pixels) -> None:
    codec = Codec(model().cuda(), name="gpu")
    latents = codec.encode([picture])[0]
    for plan, work in (
        (codec.plan(256, 256).encode_bytes, lambda: codec.encode([picture])),
        (codec.plan(256, 256).decode_bytes, lambda: codec.decode([latents])),
    ):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        assert torch.cuda.max_memory_allocated() - before < plan


@pytest.mark.parametrize("precision", ["exact", "fp32", "bf16"])
def test_what_does_not_fit_whole_goes_through_in_strips(precision: Precision, picture: Pixels) -> None:
    """With the same values, and no more memory than is predicted."""
    whole = Codec(model().cuda(), name="gpu", precision=precision)
    (latents,), plan = whole.encode([picture]), whole.plan(256, 256)
    pixels, bound = whole.decode_tensor(latents.tensor), 0.05 if precision == "bf16" else 1e-4
    memory = min(plan.encode_bytes, plan.decode_bytes) - 1
    scarce = Codec(whole.model, name="gpu", precision=precision, memory_bytes=memory)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    (found,) = scarce.encode([picture])
    decoded = scarce.decode_tensor(latents.tensor)
    assert torch.cuda.max_memory_allocated() - before < memory
    assert found.compute == Compute("fp32" if precision == "exact" else precision)
    assert float((found.tensor - latents.tensor).norm() / latents.tensor.norm()) < bound
    assert float((decoded - pixels).norm() / pixels.norm()) < bound


def test_a_data_set_becomes_latents_and_what_is_trained_on_them_learns_them(tmp_path: Path) -> None:
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=32).save_pretrained(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--data.source", "digits", "--out", str(tmp_path / "latents")]
    done = launch(words, PYTHON, ROOT / "train" / "encode_dataset.py")
    assert done.returncode == 0, done.stderr
    run = ["--latents", str(tmp_path / "latents"), "--output_dir", str(tmp_path), "--train.steps", "20"]
    run += ["--train.tracker", "none", "--train.warmup_steps", "1", "--train.batch_size", "8"]
    run += ["--train.mixed_precision", "bf16"]
    tiny = ["--prior.width", "16", "--prior.depth", "1", "--prior.head_width", "8", "--prior.patch_size", "2"]
    words = [*run, "--prior.kind", "diffusion", "--name", "noise", *tiny, "--prior.inference_steps", "2"]
    done = launch(words, PYTHON, ROOT / "train" / "train_prior.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "noise" / "pipeline" / "model_index.json").is_file()
    words = [*run, "--prior.kind", "hierarchy", "--name", "levels", "--prior.kl_warmup_steps", "5"]
    done = launch(words, PYTHON, ROOT / "train" / "train_prior.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "levels" / "prior" / "config.json").is_file()
