"""`latent-ae export diffusers`."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from latent_ae.export.diffusers_folder import DiffusersFolder
from latent_ae.export.exporter import export
from latent_ae.export.source import ModelSource
from latent_ae.models import load_autoencoder
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
