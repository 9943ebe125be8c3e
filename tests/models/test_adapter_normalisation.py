"""The latents of every class are normalised as pipelines of diffusers do it, by these pipelines' own methods."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from latent_ae.models.adapters import ADAPTERS
from latent_ae.models.encode_decode import encode_pixels, inference
from latent_ae.models.posterior import sample_posterior
from tests.models.adapted_models import adapted, network

PIPELINES = {
    "AutoencoderTiny": "FluxImg2ImgPipeline",  # with a shift
    "AutoencoderDC": "SanaSprintImg2ImgPipeline",
    "AsymmetricAutoencoderKL": "StableDiffusionInpaintPipeline",
    "AutoencoderKLFlux2": "Flux2Pipeline",
    "AutoencoderKLQwenImage": "QwenImageImg2ImgPipeline",
    "AutoencoderKLQwenImage21": "QwenImage21Pipeline",
    "AutoencoderKLWan": "WanVideoToVideoPipeline",
    "AutoencoderKLCosmos": "CosmosVideoToWorldPipeline",
    "AutoencoderKLHunyuanImageRefiner": "HunyuanImageRefinerPipeline",
    "AutoencoderKLLTXVideo": "LTXPipeline",
}
"""those that encode images; the other classes have a scaling_factor, as half of these, or nothing"""
SEED = 5


def normalised_by(name: str, pixels: Tensor) -> Tensor:
    """What the pipeline makes of an image, in its own arrangement of latents undone again."""
    kind, vae = getattr(diffusers, PIPELINES[name]), network(name)
    stock = SimpleNamespace(
        vae=vae,
        latent_channels=adapted(name).config["latent_channels"],
        vae_scale_factor=ADAPTERS[name].factor(vae.config),
        vae_scale_factor_spatial=1,
        vae_scale_factor_temporal=1,
        scheduler=SimpleNamespace(
            config=SimpleNamespace(sigma_data=1.0, sigma_max=1.0), add_noise=lambda latents, _noise, _time: latents
        ),
        **{each: getattr(kind, each) for each in ("_patchify_latents", "_reorder_image_tokens") if hasattr(kind, each)},
    )
    generator = torch.Generator().manual_seed(SEED)
    size = {"height": pixels.shape[-2], "width": pixels.shape[-1], "dtype": torch.float32, "device": "cpu"}
    found: Any
    match PIPELINES[name]:
        case "SanaSprintImg2ImgPipeline":
            found = kind.prepare_latents(stock, pixels, torch.zeros(1), 1, 8, generator=None, **size)
        case "WanVideoToVideoPipeline":
            found = kind.prepare_latents(stock, pixels, **size)
        case "CosmosVideoToWorldPipeline":
            _, found, *_ = kind.prepare_latents(stock, pixels, 1, 16, num_frames=1, **size)
        case "LTXPipeline":
            z = vae.encode(pixels).latent_dist.mode()
            found = kind._normalize_latents(z, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
            back = kind._denormalize_latents(found, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
            torch.testing.assert_close(back, z)
        case "Flux2Pipeline":
            found = kind._unpatchify_latents(kind._encode_vae_image(stock, pixels, generator))
        case "HunyuanImageRefinerPipeline":
            found = kind._restore_image_tokens_order(kind._encode_vae_image(stock, pixels, generator))
        case _:
            found = kind._encode_vae_image(stock, pixels, generator)
    return torch.as_tensor(found)


@pytest.mark.parametrize("name", PIPELINES)
def test_latents_are_normalised_as_in_the_pipeline(name: str) -> None:
    model = adapted(name)
    pixels = torch.rand(1, model.config["in_channels"], 64, 96, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with inference(model):
        mode, logvar = encode_pixels(model, pixels)[1:3]
        expected = normalised_by(name, pixels[:, :, None] if ADAPTERS[name].time_axis else pixels).reshape(mode.shape)
    draws = [mode]
    if logvar is not None:  # some pipelines take the mode, some a sample
        noise = torch.randn(mode.shape, generator=torch.Generator().manual_seed(SEED))
        draws.append(sample_posterior(mode, logvar, noise))
    found = [model.normalisation.applied(draw) for draw in draws]
    assert min(float((each - expected).abs().max()) for each in found) < 1e-5
    assert all(float((draw - expected).abs().max()) > 0.05 for draw in draws)
    for draw, each in zip(draws, found, strict=True):
        torch.testing.assert_close(model.normalisation.undone(each), draw, rtol=1e-5, atol=1e-5)


def test_patches_are_normalised_up_to_the_edge_of_odd_grids() -> None:
    normalisation = adapted("AutoencoderKLFlux2").normalisation
    latents = torch.randn(2, 4, 6, 8)
    assert normalisation.shift.shape == (4, 2, 2)
    assert torch.equal(normalisation.applied(latents[..., :5, :7]), normalisation.applied(latents)[..., :5, :7])


@pytest.mark.parametrize(
    "name", ["AutoencoderKLHunyuanImage", "AutoencoderKLTemporalDecoder", "AutoencoderKLHunyuanVideo"]
)
def test_a_scaling_factor_is_all_of_it(name: str) -> None:
    model = adapted(name)
    latents = torch.randn(1, model.config["latent_channels"], 2, 2)
    assert torch.equal(model.normalisation.applied(latents), latents * model.config["scaling_factor"])


def test_what_is_not_stated_changes_nothing() -> None:
    latents = torch.randn(1, 4, 2, 2)
    assert torch.equal(adapted("AutoencoderKLKVAE").normalisation.applied(latents), latents)
    kind = diffusers.AutoencoderKLHunyuanImage  # whose scaling_factor is null by default
    assert ADAPTERS[kind.__name__].normalisation(SimpleNamespace(config={"scaling_factor": None})).scale.item() == 1
