"""What a run exports is what it trained: stock diffusers finds the same codes, latents and pictures by itself."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import load_file
from torch import Tensor

from latent_ae.data import DigitsConfig, evaluation_batches
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models.bottlenecks.identity import IdentityBottleneck
from latent_ae.models.parts import encoder_identity
from latent_ae.models.trainable import TrainableAutoencoder
from tests.models.bottlenecks.tiny import QUANTIZING
from tests.program.running import arguments, state
from tests.program.variants import NO_KL, exported

pytestmark = pytest.mark.slow  # whole runs

STEPS = 6
CODED: dict[str, tuple[list[str], dict[str, object]]] = {
    "vq": (["--bottleneck.codebook_size", "12", "--bottleneck.kmeans_start", "true"], {}),
    "vq, normalized": (
        ["--bottleneck.codebook_size", "12", "--bottleneck.kmeans_start", "true", "--bottleneck.l2_normalized", "true"],
        {"l2_normalized": True},
    ),
    "ema_vq": (["--bottleneck.codebook_size", "12", "--bottleneck.kmeans_start", "true"], {}),
    "fsq": (["--bottleneck.levels", "5", "4"], {"levels": (5, 4)}),
    "gumbel": (["--bottleneck.codebook_size", "12"], {}),
}


def heldout() -> Tensor:
    """Every held-out digit, [359, 1, 16, 16]."""
    batches = evaluation_batches(
        DigitsConfig().open().heldout,
        PixelFormat.picture(1),
        size=16,
        background=(255, 255, 255),
        batch_size=64,
        limit=None,
        on_bad=print,
    )
    return torch.cat([batch.pixels for batch in batches])


@pytest.mark.parametrize("name", CODED)
def test_stock_vqmodel_finds_the_codes_and_pictures_of_training(name: str, main, tmp_path: Path) -> None:
    kind, (settings, options) = name.partition(",")[0], CODED[name]
    assert main(arguments(tmp_path, STEPS, *NO_KL, "--bottleneck.kind", kind, *settings)) == 0
    stock = VQModel.from_pretrained(tmp_path / "run" / "model").eval()
    model = exported(tmp_path)
    before = model.quantize.embedding.weight.clone()
    wrapper = TrainableAutoencoder(model, QUANTIZING[kind](model.quantize.embedding, **options)).eval()
    pixels = heldout()
    assert len(pixels) == 359
    with torch.no_grad():
        ours = wrapper(pixels, torch.zeros(len(pixels), *wrapper.bottleneck.noise_shape((2, 8, 8))))
        vectors = stock.encode(pixels).latents
        latents, _, (_, _, indices) = stock.quantize(vectors)
        reconstruction = stock.decode(vectors).sample
    assert ours.bottleneck.codes is not None
    assert torch.equal(indices.view(-1, 8, 8), ours.bottleneck.codes)
    torch.testing.assert_close(latents, ours.bottleneck.latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(reconstruction, ours.reconstruction, atol=1e-5, rtol=0)
    assert len(indices.unique()) > 1, "a single code would be found by anything"
    assert torch.equal(model.quantize.embedding.weight, before), "the bottleneck had to mend the exported codebook"


def test_a_codebook_of_averages_is_exported_as_it_is(main, tmp_path: Path) -> None:
    settings = ["--bottleneck.kind", "ema_vq", "--bottleneck.codebook_size", "12"]
    assert main(arguments(tmp_path, STEPS, *NO_KL, *settings)) == 0
    codes = exported(tmp_path).quantize.embedding.weight
    assert torch.equal(codes, state(tmp_path, STEPS)["weights/autoencoder.quantize.embedding.weight"])


def test_a_plain_autoencoders_mode_and_sample_are_the_latents(main, tmp_path: Path) -> None:
    assert main(arguments(tmp_path, STEPS, *NO_KL, "--bottleneck.kind", "identity")) == 0
    stock = AutoencoderKL.from_pretrained(tmp_path / "run" / "model").eval()
    model, pixels = exported(tmp_path), heldout()
    wrapper = TrainableAutoencoder(model, IdentityBottleneck()).eval()
    with torch.no_grad():
        ours = wrapper(pixels, torch.zeros(len(pixels), 0))
        posterior = stock.encode(pixels).latent_dist
        sample = posterior.sample(generator=torch.Generator().manual_seed(0))
        reconstruction = stock.decode(sample).sample
    assert torch.equal(posterior.mode(), ours.bottleneck.latents)
    torch.testing.assert_close(sample, ours.bottleneck.latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(reconstruction, ours.reconstruction, atol=1e-4, rtol=0)
    stats = json.loads((tmp_path / "run" / "model" / "latent_stats.json").read_text())
    assert stats["of"] == "mode"
    # Its mean is what was trained: only the half of the moments that nobody reads was replaced.
    trained = state(tmp_path, STEPS)["ema/quant_conv.weight"]
    assert torch.equal(stock.quant_conv.weight[:2], trained[:2])
    assert not torch.equal(stock.quant_conv.weight[2:], trained[2:])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_of_half_precision_is_measured_as_it_is_stored(main, tmp_path: Path, dtype: str) -> None:
    everything = ("--evaluation.max_images", "359")
    assert main(arguments(tmp_path, STEPS, "--model.dtype", dtype, *everything)) == 0
    folder = tmp_path / "run" / "model"
    stored = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    trained = state(tmp_path, STEPS)["ema/decoder.conv_in.weight"]
    assert torch.equal(stored["decoder.conv_in.weight"], trained.to(getattr(torch, dtype)))
    model, stock = exported(tmp_path), AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[name].float())
        assert torch.equal(tensor, stock.state_dict()[name])
    stats = json.loads((folder / "latent_stats.json").read_text())
    assert stats["encoder_identity"] == encoder_identity(model)
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["metrics"]["psnr"]["value"] == pytest.approx(mean_psnr(model, heldout()), abs=1e-3)


def mean_psnr(model: AutoencoderKL, pixels: Tensor) -> float:
    with torch.no_grad():
        outputs = model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (outputs - pixels).square().mean((1, 2, 3)))).mean())
