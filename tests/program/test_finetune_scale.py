"""What a fine-tune's config says of the scale of its latents, and diffusers' pipelines with the result inside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.export import compat
from latent_ae.models import Autoencoder, build_autoencoder, load_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.naming import model_name
from tests.models.stock_models import ldm_tensors
from tests.program.running import arguments
from tests.program.variants import NO_KL, finetune_arguments

pytestmark = pytest.mark.slow  # whole runs and pipelines

STABLE_DIFFUSION: dict[str, Any] = {"scaling_factor": 0.18215, "shift_factor": None}
XL: dict[str, Any] = {
    "scaling_factor": 0.13025,
    "shift_factor": None,
    "force_upcast": False,
    "latents_mean": [0.5, -0.25, 0.125, 0.0],
    "latents_std": [2.0, 1.5, 1.0, 0.5],
}
SCALE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")


def source(folder: Path, kind: str = "kl", **config: Any) -> Path:
    """A saved autoencoder whose config says that of its scale."""
    codes = {"codebook_size": 12} if kind == "vq" else {}
    model = build_autoencoder(
        ModelConfig(preset="tiny", image_channels=3, latent_channels=4),
        BOTTLENECKS[kind](**codes),
        seed=0,
        resolution=16,
    )
    model.register_to_config(**config)
    model.save_pretrained(folder)
    return folder


def configs(*folders: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / "config.json").read_text()) for folder in folders]


Finetune = Callable[..., Path]


@pytest.fixture
def finetune(main, tmp_path: Path) -> Finetune:
    """The result of a short run from a source; `more` are further settings."""

    def run(init_from: Path, trained: str | None, *more: str) -> Path:
        parts = [] if trained is None else ["--model.trained", *trained.split()]
        argv = finetune_arguments(tmp_path, 3, init_from, *parts, "--train.learning_rate", "0.01", *more)
        assert main(argv) == 0
        return tmp_path / "run" / "model"

    return run


# ------------------------------------------------------------------------------------------------------- the pipelines


def unet(**more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    ).eval()


def stable_diffusion(vae: AutoencoderKL, network: UNet2DConditionModel) -> Callable[[str], Any]:
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=network,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return drawing(pipeline, prompt_embeds=torch.ones(1, 3, 8), guidance_scale=1.0)


def stable_diffusion_xl(vae: AutoencoderKL, network: UNet2DConditionModel) -> Callable[[str], Any]:
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=network,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        add_watermarker=False,
    )
    embeddings = {"prompt_embeds": torch.ones(1, 3, 8), "pooled_prompt_embeds": torch.ones(1, 8)}
    return drawing(pipeline, **embeddings, guidance_scale=1.0)


def drawing(pipeline: Any, **options: Any) -> Callable[[str], Any]:
    pipeline.set_progress_bar_config(disable=True)
    return lambda output: (
        pipeline(
            output_type=output,
            **options,
            num_inference_steps=2,
            height=16,
            width=24,
            generator=torch.Generator().manual_seed(0),
        ).images
    )


def raw(latents: Tensor, said: dict[str, Any]) -> Tensor:
    """What the pipelines of diffusers hand to a decoder with that config."""
    if said.get("latents_mean") is None:
        return latents / said["scaling_factor"]
    mean, std = (torch.tensor(said[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    return latents * std / said["scaling_factor"] + mean


XL_NETWORK = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 8 + 6 * 4,
}


@pytest.mark.parametrize(
    ("build", "network", "said"),
    [(stable_diffusion, {}, STABLE_DIFFUSION), (stable_diffusion_xl, XL_NETWORK, XL)],
    ids=["SD", "SDXL"],
)
def test_a_finetuned_decoder_decodes_the_latents_that_a_pipeline_has(
    build: Any, network: dict[str, Any], said: dict[str, Any], *, finetune: Finetune, tmp_path: Path
) -> None:
    origin = source(tmp_path / "source", **said)
    result = finetune(origin, "decoder")
    before, after = configs(origin, result)
    assert {key: (before.get(key), after.get(key)) for key in before | after if before.get(key) != after.get(key)} == {}
    old, new = (AutoencoderKL.from_pretrained(folder).eval() for folder in (origin, result))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        shared = unet(**network)
    latents = build(old, shared)("latent")
    assert torch.equal(build(new, shared)("latent"), latents)
    pictures = [torch.from_numpy(build(vae, shared)("np")).movedim(-1, 1) for vae in (old, new)]
    with torch.no_grad():
        bare = [(vae.decode(raw(latents, said)).sample / 2 + 0.5).clamp(0, 1) for vae in (old, new)]
    for picture, expected in zip(pictures, bare, strict=True):
        torch.testing.assert_close(picture, expected, atol=1e-5, rtol=0)
    own_change = (bare[1] - bare[0]).abs().max()
    assert 0 < own_change < 1
    assert compat(new) == compat(old)


# ---------------------------------------------------------------------------------- every way to train a part, and none


@pytest.mark.parametrize("said", [STABLE_DIFFUSION, XL], ids=["SD", "SDXL"])
@pytest.mark.parametrize("trained", ["decoder", "decoder.conv_out", "post_quant_conv decoder.conv_in"])
def test_a_frozen_encoder_keeps_every_key(
    trained: str, said: dict[str, Any], *, finetune: Finetune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = source(tmp_path / "source", **said)
    result = finetune(origin, trained)
    before, after = configs(origin, result)
    assert before == after
    stats = json.loads((result / "latent_stats.json").read_text())
    kept = {key: said[key] for key in SCALE if key in said and key != "force_upcast"}
    assert (stats["config"], stats["config_is"]) == (kept, f"kept from {model_name(str(origin))}")
    assert stats["measured"]["scaling_factor"] == pytest.approx(1 / stats["sample"]["std"])
    assert stats["measured"]["shift_factor"] == pytest.approx(stats["sample"]["mean"])
    card = (result / "README.md").read_text()
    assert f"`scaling_factor` {said['scaling_factor']}, `shift_factor` null" in card
    assert f"1/std {stats['measured']['scaling_factor']}" in card
    assert f"latents: those of {origin}, whose encoder is frozen; their scale is kept" in capsys.readouterr().out


@pytest.mark.parametrize("trained", [None, "encoder", "encoder.conv_out", "quant_conv", "encoder decoder"])
def test_a_trained_encoder_leaves_no_key_of_the_old_latents(
    trained: str | None, finetune: Finetune, tmp_path: Path
) -> None:
    origin = source(tmp_path / "source", **XL)
    result = finetune(origin, trained)
    stats = json.loads((result / "latent_stats.json").read_text())
    (after,) = configs(result)
    measured = {"scaling_factor": 1 / stats["sample"]["std"], "shift_factor": stats["sample"]["mean"]}
    assert {key: after[key] for key in measured} == pytest.approx(measured)
    assert stats["config"] == stats["measured"] == {key: after[key] for key in measured}
    assert stats["config_is"] == "measured"
    # What fp16 does was judged with weights that are gone: the class's careful default.
    assert (after["latents_mean"], after["latents_std"], after["force_upcast"]) == (None, None, True)


@pytest.mark.parametrize(("trained", "kept"), [("decoder", True), ("quantize decoder", False), (None, False)])
def test_a_codebook_belongs_to_the_encoder(
    trained: str | None, kept: bool, *, finetune: Finetune, tmp_path: Path
) -> None:
    origin = source(tmp_path / "source", kind="vq", scaling_factor=0.18215)
    result = finetune(origin, trained, "--bottleneck.kind", "vq")
    (after,) = configs(result)
    assert (after["scaling_factor"] == 0.18215) == kept
    assert "shift_factor" not in after
    assert "shift_factor" not in json.loads((result / "latent_stats.json").read_text())["config"]


def test_the_result_of_a_run_is_a_source_too(main, finetune: Finetune, tmp_path: Path) -> None:
    first = finetune(source(tmp_path / "source", **STABLE_DIFFUSION), None)
    (measured,) = configs(first)
    assert main(finetune_arguments(tmp_path / "second", 2, first, "--model.trained", "decoder")) == 0
    (kept,) = configs(tmp_path / "second" / "run" / "model")
    assert [kept[key] for key in SCALE] == [measured[key] for key in SCALE]


def test_a_fresh_model_has_no_source_to_keep_to(main, tmp_path: Path) -> None:
    assert main(arguments(tmp_path, 2, "--model.trained", "decoder", *NO_KL)) == 0
    stats = json.loads((tmp_path / "run" / "model" / "latent_stats.json").read_text())
    assert stats["config"] == stats["measured"]


def test_a_source_that_states_no_scale_is_warned_of(
    finetune: Finetune, main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model: Autoencoder = load_autoencoder(str(source(tmp_path / "source", **STABLE_DIFFUSION)))
    file = tmp_path / "vae.safetensors"
    save_file(ldm_tensors(model), file)
    result = finetune(file, "decoder", "--model.norm_num_groups", "4")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"warning: {file}")]
    assert len(said) == 2  # at the start, and with the result
    for line in said:
        assert line.startswith(f"warning: {file} does not state the scale of its latents")
        assert f"latent-ae import {file} -o DIR --scaling-factor X" in line
    stats = json.loads((result / "latent_stats.json").read_text())
    assert stats["config"] == stats["measured"]
    assert (
        "> **Warning:** vae.safetensors does not state the scale of its latents" in (result / "README.md").read_text()
    )
    # With everything trained there is nothing to keep, and nothing to warn of.
    assert main(finetune_arguments(tmp_path / "all", 2, file, "--model.norm_num_groups", "4")) == 0
    assert "does not state the scale" not in capsys.readouterr().out
