"""`latent-ae export diffusers`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, VQModel

from latent_ae.config import ModelConfig
from latent_ae.evaluation.evaluate import measure_latents
from latent_ae.export import compat
from latent_ae.export.diffusers_folder import DiffusersFolder
from latent_ae.export.exporter import export
from latent_ae.export.proof import ExportError
from latent_ae.export.source import ModelSource
from latent_ae.models import build_autoencoder, load_autoencoder
from latent_ae.models.parts import encoder_identity
from tests.export.conftest import Run, left, write_model


def test_the_folder_is_the_model_with_its_card_and_statistics(tmp_path: Path, kl: ModelSource, models: Path) -> None:
    export(kl, tmp_path / "pipeline" / "vae", DiffusersFolder())
    assert left(tmp_path / "pipeline" / "vae") == [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "export_report.json",
        "latent_stats.json",
        "reconstructions.png",
    ]
    for name in ("README.md", "latent_stats.json", "reconstructions.png"):
        assert (tmp_path / "pipeline/vae" / name).read_bytes() == (models / "kl" / name).read_bytes()
    loaded = AutoencoderKL.from_pretrained(tmp_path / "pipeline", subfolder="vae")
    assert encoder_identity(loaded) == kl.identity
    assert (loaded.config.scaling_factor, loaded.config.shift_factor) == (0.5, 0.25)
    assert "/" not in json.dumps(json.loads((tmp_path / "pipeline/vae/config.json").read_text()))


def test_a_shift_that_is_none_becomes_zero(tmp_path: Path, kl: ModelSource) -> None:
    model = load_autoencoder(kl.name)
    model.register_to_config(shift_factor=None)
    folder = write_model(tmp_path / "model", model)
    export(ModelSource.load(str(folder)), tmp_path / "vae", DiffusersFolder())
    assert AutoencoderKL.from_pretrained(tmp_path / "vae").config.shift_factor == 0.0
    assert json.loads((tmp_path / "vae/config.json").read_text())["shift_factor"] == 0.0


def test_variants_are_the_model_rounded_once(tmp_path: Path, kl: ModelSource) -> None:
    export(kl, tmp_path / "vae", DiffusersFolder(("fp32", "fp16", "bf16")))
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        loaded = AutoencoderKL.from_pretrained(tmp_path / "vae", variant=variant, torch_dtype=dtype)
        for name, tensor in kl.model.state_dict().items():
            assert loaded.state_dict()[name].equal(tensor.to(dtype))
    sizes = {path.suffixes[0]: path.stat().st_size for path in (tmp_path / "vae").glob("*.safetensors")}
    assert max(sizes[".fp16"], sizes[".bf16"]) < 0.7 * sizes[".safetensors"]
    assert encoder_identity(AutoencoderKL.from_pretrained(tmp_path / "vae")) == kl.identity


def test_a_variant_alone_has_no_plain_file(tmp_path: Path, vq: ModelSource) -> None:
    export(vq, tmp_path / "vae", DiffusersFolder(("fp16",)))
    assert [path.name for path in (tmp_path / "vae").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    assert VQModel.from_pretrained(tmp_path / "vae", variant="fp16", torch_dtype=torch.float16).dtype == torch.float16


def loud(kl: ModelSource, folder: Path, layer: str) -> ModelSource:
    """The model with a layer whose output passes 65504, undone by the next: as good as before in float32."""
    model = load_autoencoder(kl.name)
    side = getattr(model, layer)
    with torch.no_grad():
        for tensor in (side.conv_in.weight, side.conv_in.bias):
            tensor.mul_(1e6)
    return ModelSource.load(str(write_model(folder, model)))


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_fp16_that_overflows_on_real_images_sets_force_upcast_and_is_told(
    side: str, tmp_path: Path, kl: ModelSource, run: Run
) -> None:
    source = loud(kl, tmp_path / "loud", side)
    assert source.model.config["force_upcast"]
    status, said, _ = run("export", "diffusers", "--model", source.name, "-o", tmp_path / "vae")
    assert status == 0
    assert f"warning: fp16 overflows in {side}.conv_in on held-out images: use it in float32 or bfloat16" in said
    assert AutoencoderKL.from_pretrained(tmp_path / "vae").config.force_upcast is True
    assert "overflows" in json.loads((tmp_path / "vae/export_report.json").read_text())["warnings"][0]


def test_fp16_that_does_well_is_not_upcast(tmp_path: Path, kl: ModelSource) -> None:
    exported = export(kl, tmp_path / "vae", DiffusersFolder())
    assert exported.warnings == ()
    assert AutoencoderKL.from_pretrained(tmp_path / "vae").config.force_upcast is False


def test_bf16_that_moves_latents_by_more_than_a_percent_is_told(tmp_path: Path, kl: ModelSource) -> None:
    model = load_autoencoder(kl.name)
    with torch.no_grad():
        # A mean of which the bias takes nearly all away: what is left is below bfloat16's third digit.
        model.quant_conv.weight[:2] *= 1e-4
        model.quant_conv.bias[:2] = 0
        model.encoder.conv_out.bias[:] += 1e4
        model.quant_conv.bias[:2] -= (model.quant_conv.weight[:2, :, 0, 0] @ model.encoder.conv_out.bias) - 1e-3
    source = ModelSource.load(str(write_model(tmp_path / "model", model)))
    exported = export(source, tmp_path / "vae", DiffusersFolder(("bf16",)))
    assert any(warning.startswith("bf16 puts latents") for warning in exported.warnings)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A model with 4 latent channels, as a run leaves it, and the images on which its latents were measured."""
    config = ModelConfig(preset="tiny", image_channels=3, latent_channels=4)
    model = build_autoencoder(config, seed=0, resolution=16).eval()
    with torch.no_grad():
        model.quant_conv.bias[:4] = torch.tensor([3.0, -2.0, 0.0, 1.0])
    pixels = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    statistics = measure_latents(model, [(pixels, list(map(str, range(64))))])
    model.register_to_config(**statistics.scaling()._asdict())
    folder = write_model(tmp_path_factory.mktemp("measured") / "model", model)
    stats = {"encoder_identity": encoder_identity(model), **statistics.to_dict()}
    (folder / "latent_stats.json").write_text(json.dumps(stats))
    return folder, pixels


def test_per_channel_scaling_is_undone_and_done_by_the_stock_sdxl_pipeline(
    tmp_path: Path, measured: tuple[Path, torch.Tensor]
) -> None:
    folder, pixels = measured
    source = ModelSource.load(str(folder))
    done = export(source, tmp_path / "vae", DiffusersFolder(per_channel=True))
    assert any("scale latents so in training too" in warning for warning in done.warnings)
    stats = json.loads((folder / "latent_stats.json").read_text())["sample"]
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert vae.config.latents_mean == stats["channel_mean"]
    assert vae.config.scaling_factor == pytest.approx(1 / stats["std"])
    pipeline = SimpleNamespace(vae=vae)
    latents = StableDiffusionXLImg2ImgPipeline.prepare_latents(
        *(pipeline, pixels, None, len(pixels), 1, torch.float32, torch.device("cpu")),
        generator=torch.Generator().manual_seed(1),
        add_noise=False,
    )
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(stats[name]).view(1, 4, 1, 1) for name in ("channel_mean", "channel_std"))
    torch.testing.assert_close(latents, (raw - mean) / std, atol=1e-5, rtol=0)
    assert latents.mean((0, 2, 3)).abs().max() < 0.05
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.05, rtol=0)
    said = {verdict.consumer: verdict for verdict in compat(vae)}
    assert said["diffusers SDXL pipelines"].works
    assert said["diffusers SD3 and FLUX pipelines"].reasons == ("ignores latents_mean and latents_std",)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda stats: stats.pop("sample"),
            "--per-channel needs latent_stats.json with the statistics of each channel",
        ),
        (lambda stats: stats.update(encoder_identity="0"), "is of another encoder than the weights beside it"),
        (lambda stats: stats["sample"]["channel_mean"].pop(), "is of another encoder than the weights beside it"),
        (lambda stats: stats["sample"].update(channel_std=[1, 0, 1, 1]), "channel 1 of the latents is constant"),
    ],
)
def test_statistics_that_do_not_fit_are_one_line(
    harm: Callable[[dict[str, Any]], object], message: str, measured: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(measured[0], tmp_path / "model"))
    stats = json.loads((folder / "latent_stats.json").read_text())
    harm(stats)
    (folder / "latent_stats.json").write_text(json.dumps(stats))
    with pytest.raises(ExportError, match=message) as caught:
        export(ModelSource.load(str(folder)), tmp_path / "vae", DiffusersFolder(per_channel=True))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "vae").exists()


def test_codes_and_stated_statistics_have_no_per_channel_scale(
    vq: ModelSource, kl: ModelSource, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="--per-channel needs an AutoencoderKL, got the VQModel"):
        export(vq, tmp_path / "vae", DiffusersFolder(per_channel=True))
    model = load_autoencoder(kl.name)
    model.register_to_config(latents_mean=[0.0, 0.0], latents_std=[1.0, 1.0])
    folder = write_model(tmp_path / "model", model)
    with pytest.raises(ExportError, match="has latents_mean and latents_std already: leave out --per-channel"):
        export(ModelSource.load(str(folder)), tmp_path / "vae", DiffusersFolder(per_channel=True))
