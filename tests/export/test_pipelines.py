"""Exported models inside diffusers' own pipelines: the same latents in and out as calling the codec.

The networks are tiny and drawn at random, so images mean nothing; what the pipelines do with the autoencoder is theirs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LDMSuperResolutionPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from PIL import Image
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.export.diffusers_folder import DiffusersFolder
from latent_ae.export.exporter import export
from latent_ae.export.source import ModelSource
from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor, to_tensor
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS

pytestmark = pytest.mark.slow  # whole pipelines

SCALE, SHIFT = 0.6, 0.3


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Codec]:
    """`rgb`, `grey`, `bands` (five channels) and `vq` of factor 2, all but the last with a scale and a shift."""
    folder = tmp_path_factory.mktemp("models")
    codecs = {}
    for name, channels, kind in (("rgb", 3, "kl"), ("grey", 1, "kl"), ("bands", 5, "kl"), ("vq", 3, "vq")):
        bottleneck = BOTTLENECKS[kind](**({"codebook_size": 16, "code_channels": 3} if kind == "vq" else {}))
        config = ModelConfig(preset="tiny", image_channels=channels, latent_channels=4)
        model = build_autoencoder(config, bottleneck, seed=0, resolution=16)
        model.register_to_config(scaling_factor=SCALE, **({} if kind == "vq" else {"shift_factor": SHIFT}))
        model.save_pretrained(folder / name)
        if channels == 5:
            (folder / name / "pixel_format.json").write_text(PixelFormat(5, numbers=True).to_json())
        codecs[name] = Codec.load(str(folder / name), precision="exact")
    return codecs


def exported(codec: Codec, folder: Path) -> Path:
    export(ModelSource.load(codec.name), folder, DiffusersFolder(measure=False))
    return folder


def picture(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 24, channels), np.uint8)


def drawn(codec: Codec, pixels: np.ndarray) -> Tensor:
    """The posterior of an image by the codec, drawn from as diffusers draws."""
    (latents,) = codec.encode([pixels], logvar=True)
    assert latents.logvar is not None
    noise = torch.randn(latents.tensor.shape, generator=torch.Generator().manual_seed(0))
    return latents.tensor + (0.5 * latents.logvar).exp() * noise


def recorded(scheduler: Any, name: str, argument: int) -> list[Tensor]:
    """What a pipeline hands to a method of its scheduler: the latents of its image, before noise."""
    seen: list[Tensor] = []
    method: Callable[..., Tensor] = getattr(scheduler, name)

    def wrapper(*arguments: Any) -> Tensor:
        seen.append(arguments[argument])
        return method(*arguments)

    setattr(scheduler, name, wrapper)
    return seen


# ---------------------------------------------------------------------------------------------- Stable Diffusion 1.x


@pytest.fixture(scope="module")
def stable_diffusion(codecs: dict[str, Codec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole pipelines on disk, whose vae/ is an export."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = tmp_path_factory.mktemp("words")
    pieces = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>", "b", "b</w>"]
    (words / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=8)
    text = CLIPTextConfig(
        vocab_size=6,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    folders = {}
    for name in ("rgb", "grey", "bands"):
        folders[name] = tmp_path_factory.mktemp("pipelines") / name
        StableDiffusionPipeline(
            vae=codecs[name].model,
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folders[name])
        for path in (folders[name] / "vae").iterdir():
            path.unlink()
        exported(codecs[name], folders[name] / "vae")
    return folders


@pytest.mark.parametrize("name", ["rgb", "grey", "bands"])
def test_text_to_image_decodes_what_the_codec_does(
    name: str, codecs: dict[str, Codec], stable_diffusion: dict[str, Path]
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(stable_diffusion[name])
    pipeline.set_progress_bar_config(disable=True)

    def draw(output: str) -> Any:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "height": 16, "width": 24, "generator": generator}
        return pipeline("a b", output_type=output, **options).images

    latents = draw("latent")
    assert latents.shape == (1, 4, 8, 12)
    # The pipeline knows the scale and ignores the shift.
    expected = codecs[name].decode_tensor(latents / SCALE)
    torch.testing.assert_close(torch.from_numpy(draw("np")).movedim(-1, 1), expected / 2 + 0.5, rtol=0, atol=1e-6)
    if name == "bands":  # as `latent-ae compat` says
        with pytest.raises(TypeError, match="Cannot handle this data type"):
            draw("pil")
        return
    image = np.asarray(draw("pil")[0])
    assert np.abs(image.reshape(16, 24, -1).astype(int) - from_tensor(expected)[0]).max() <= 1


@pytest.mark.parametrize("name", ["rgb", "grey"])
def test_image_to_image_encodes_what_the_codec_does(
    name: str, codecs: dict[str, Codec], stable_diffusion: dict[str, Path]
) -> None:
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(stable_diffusion[name])
    pipeline.set_progress_bar_config(disable=True)
    seen = recorded(pipeline.scheduler, "add_noise", 0)
    pixels = picture(codecs[name].channels)
    image = to_tensor(pixels)[None] / 2 + 0.5 if name == "grey" else Image.fromarray(pixels)
    options = {"strength": 0.5, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    pipeline("a b", image=image, output_type="latent", **options)
    torch.testing.assert_close(seen[0], SCALE * drawn(codecs[name], pixels), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- SD3 (FLUX)


@pytest.fixture(scope="module")
def stable_diffusion_3(codecs: dict[str, Codec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parts of a pipeline; its text encoders are left out, and embeddings given."""
    from diffusers import AutoencoderKL

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=16,
    )
    folder = exported(codecs["rgb"], tmp_path_factory.mktemp("sd3") / "vae")
    encoders = [f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")]
    return {
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": AutoencoderKL.from_pretrained(folder.parent, subfolder="vae"),
        **dict.fromkeys(encoders),
    }


def embeddings() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "prompt_embeds": torch.randn(1, 4, 8, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 8, generator=generator),
        "guidance_scale": 1.0,
        "num_inference_steps": 2,
    }


def test_sd3_takes_the_shift_off_and_puts_it_on(codecs: dict[str, Codec], stable_diffusion_3: dict[str, Any]) -> None:
    pipeline = StableDiffusion3Pipeline(**stable_diffusion_3)
    pipeline.set_progress_bar_config(disable=True)

    def draw(output: str) -> Any:
        options = {"height": 16, "width": 24, "generator": torch.Generator().manual_seed(0)}
        return pipeline(output_type=output, **options, **embeddings()).images

    expected = codecs["rgb"].decode_tensor(draw("latent") / SCALE + SHIFT)
    torch.testing.assert_close(torch.from_numpy(draw("np")).movedim(-1, 1), expected / 2 + 0.5, rtol=0, atol=1e-6)

    pipeline = StableDiffusion3Img2ImgPipeline(**stable_diffusion_3)
    pipeline.set_progress_bar_config(disable=True)
    seen = recorded(pipeline.scheduler, "scale_noise", 0)
    pixels = picture(3)
    options = {"height": 16, "width": 24, "strength": 0.5, "generator": torch.Generator().manual_seed(0)}
    pipeline(image=Image.fromarray(pixels), output_type="latent", **options, **embeddings())
    torch.testing.assert_close(seen[0], SCALE * (drawn(codecs["rgb"], pixels) - SHIFT), rtol=0, atol=1e-5)


def test_sd3_cannot_do_without_a_number_for_the_shift(stable_diffusion_3: dict[str, Any]) -> None:
    vae = stable_diffusion_3["vae"]
    vae.register_to_config(shift_factor=None)
    try:
        pipeline = StableDiffusion3Pipeline(**stable_diffusion_3)
        pipeline.set_progress_bar_config(disable=True)
        with pytest.raises(TypeError):
            pipeline(height=16, width=24, output_type="np", **embeddings())
    finally:
        vae.register_to_config(shift_factor=SHIFT)


# ----------------------------------------------------------------------------------------- latent diffusion, and codes


def unet(channels: int, out: int) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=out,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def test_sampling_without_a_prompt_ends_in_the_codecs_images(codecs: dict[str, Codec], tmp_path: Path) -> None:
    vqvae = VQModel.from_pretrained(exported(codecs["vq"], tmp_path / "vqvae"))
    network, scheduler = unet(3, 3), DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(3)
    latents = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for step in scheduler.timesteps:
            latents = scheduler.step(network(latents, step).sample, step, latents).prev_sample
        pixels = vqvae.decode(latents / vqvae.config.scaling_factor).sample
    vectors = latents / SCALE
    torch.testing.assert_close(pixels.clamp(-1, 1), codecs["vq"].decode_tensor(vectors), rtol=0, atol=1e-5)
    with torch.no_grad():
        codes = vqvae.quantize(vectors)[2][2].view(2, 8, 12)
    torch.testing.assert_close(
        pixels.clamp(-1, 1), codecs["vq"].decode_tensor(codecs["vq"].codebook.vectors(codes)), rtol=0, atol=1e-5
    )


def test_super_resolution_decodes_the_nearest_codes(codecs: dict[str, Codec], tmp_path: Path) -> None:
    vqvae = VQModel.from_pretrained(exported(codecs["vq"], tmp_path / "vqvae"))
    pipeline = LDMSuperResolutionPipeline(vqvae=vqvae, unet=unet(6, 3), scheduler=DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    seen = recorded(vqvae, "decode", 0)
    image = to_tensor(picture(3))[None]
    generator = torch.Generator().manual_seed(0)
    result = pipeline(image, num_inference_steps=2, generator=generator, output_type="pt").images
    assert result.shape == (1, 3, 32, 48)
    expected = codecs["vq"].decode_tensor(seen[0])
    torch.testing.assert_close(result, expected / 2 + 0.5, rtol=0, atol=1e-5)
