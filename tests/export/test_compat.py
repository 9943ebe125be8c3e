"""`latent-ae compat`: which program can use which config, and why not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from latent_ae.config import BottleneckConfig, ModelConfig
from latent_ae.export import Verdict, compat
from latent_ae.export.compat import CONSUMERS
from latent_ae.models import build_autoencoder
from tests.export.conftest import Run
from tests.models.stock_models import arguments, stock

SD, XL, SHIFTING = (f"diffusers {name} pipelines" for name in ("SD 1.x and 2.x", "SDXL", "SD3 and FLUX"))
FILE, SUPER = "AutoencoderKL.from_single_file", "diffusers LDM super-resolution"
COMFY, WEB_UI, KOHYA, OPTIMUM = "ComfyUI", "A1111 and Forge", "kohya sd-scripts", "optimum"
ALWAYS = {"diffusers", "ONNX Runtime", "torch.export"}


def judged(preset: str, *, kind: str = "kl", **config: Any) -> dict[str, Verdict]:
    """A preset with some keys of its config changed, judged without its weights."""
    bottleneck = BottleneckConfig(kind=kind, **({"codebook_size": 8} if kind == "vq" else {}))
    with torch.device("meta"):
        model = build_autoencoder(ModelConfig(preset=preset), bottleneck, seed=0, resolution=64)
    model.register_to_config(**config)
    return {verdict.consumer: verdict for verdict in compat(model)}


def works(verdicts: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.works} - ALWAYS


@pytest.mark.parametrize(
    ("preset", "kind", "expected"),
    [
        ("sd", "kl", {FILE, SD, XL, SHIFTING, COMFY, WEB_UI, KOHYA, OPTIMUM}),
        ("sd3", "kl", {FILE, SD, XL, SHIFTING, COMFY, OPTIMUM}),
        ("kl-f4", "kl", {FILE, SD, XL, SHIFTING, COMFY, OPTIMUM}),
        ("kl-f16", "kl", {FILE, SD, XL, SHIFTING, OPTIMUM}),
        ("photos-f4", "kl", {FILE, SD, XL, SHIFTING, OPTIMUM}),
        ("digits", "kl", {FILE, SD, XL, SHIFTING, OPTIMUM}),
        ("vq-f8", "vq", set()),
        ("digits", "vq", {SUPER}),
    ],
)
def test_the_presets(preset: str, kind: str, expected: set[str]) -> None:
    verdicts = judged(preset, kind=kind)
    assert list(verdicts) == list(CONSUMERS)
    assert works(verdicts) == expected
    assert all(verdicts[name].works for name in ALWAYS)
    for verdict in verdicts.values():
        assert bool(verdict.note) == verdict.works == (not verdict.reasons)


def test_a_shift_is_ignored_by_some_and_needed_by_others() -> None:
    verdicts = judged("sd", shift_factor=0.3)
    assert all("it ignores shift_factor 0.3" in verdicts[name].note for name in (SD, XL, KOHYA))
    assert "shift" not in verdicts[SHIFTING].note
    missing = judged("sd", shift_factor=None)
    assert missing[SHIFTING].reasons == (
        "shift_factor is no number, and it adds it (latent-ae export diffusers writes 0.0)",
    )
    assert missing[SD].works


def test_statistics_by_channel_are_for_sdxl_with_four_channels() -> None:
    four, sixteen = (judged(preset, latents_mean=[0.0], latents_std=[1.0]) for preset in ("sd", "sd3"))
    assert (four[SD].reasons, four[SHIFTING].reasons) == (("it ignores latents_mean and latents_std",),) * 2
    assert four[XL].works
    assert sixteen[XL].reasons == ("it takes latents_mean for 4 channels, and there are 16",)


def test_every_reason_against_stable_diffusions_own_architecture_is_named() -> None:
    reasons = judged("digits")[WEB_UI].reasons
    assert reasons == (
        "it needs RGB images, and these have 1 channels",
        "it needs the widths 128, 256, 512, 512, and they are 8, 24, 32, 64",
        "it needs 2 layers a level, and there are 1",
        "it needs 32 groups, and there are 1",
        "it needs 4 latent channels, and there are 3",
    )
    assert "it needs both 1x1 convolutions around the latents" in judged("sd3")[WEB_UI].reasons
    assert judged("photos-f4")[COMFY].reasons[-1] == "it needs attention in the middle and nowhere else"
    assert judged("sd", act_fn="mish")[COMFY].reasons == ("it needs the activation silu, and it is mish",)


def test_kohya_reads_a_folder_of_other_widths_but_no_file() -> None:
    assert judged("sd")[KOHYA].note.startswith("as a folder or one file;")
    assert judged("sd", norm_num_groups=16)[KOHYA].note.startswith("as a diffusers folder alone;")
    assert judged("kl-f4")[KOHYA].reasons == (
        "it needs a factor of 8, and it is 4",
        "it needs 4 latent channels, and there are 3",
    )


def test_other_reasons() -> None:
    def of(name: str) -> dict[str, Verdict]:
        return {verdict.consumer: verdict for verdict in compat(stock(name))}

    assert of("latent-diffusion f16")[FILE].reasons == ("attention in a level of its own is left out by its key map",)
    odd = of("one 1x1 convolution")
    assert odd[SD].reasons == ("images of 4 channels become images of 3",)
    assert "it knows both 1x1 convolutions around the latents or none" in odd[COMFY].reasons
    assert of("codebook")[FILE].reasons == ("there is no VQModel.from_single_file",)
    assert of("wider vectors")[SUPER].reasons == (
        "it puts latents beside an RGB image: they need 3 channels, and have 6",
    )
    assert judged("sd", scaling_factor=None)[OPTIMUM].reasons == ("scaling_factor is no number",)
    with torch.device("meta"):
        wide = AutoencoderKL(
            **arguments(128, 256, 512, 512, layers_per_block=2, latent_channels=64) | {"norm_num_groups": 32}
        )
    verdicts = {verdict.consumer: verdict for verdict in compat(wide)}
    assert verdicts[COMFY].reasons == ("it takes 64 latent channels for another model's",)


def test_there_is_no_loader_of_a_single_vq_file() -> None:
    assert not hasattr(VQModel, "from_single_file")


def test_the_command_says_it_and_writes_it(models: Path, tmp_path: Path, run: Run) -> None:
    status, said, errors = run("compat", models / "vq", "--json", tmp_path / "compat.json")
    assert (status, errors) == (0, [])
    table = json.loads((tmp_path / "compat.json").read_text())
    assert [row["consumer"] for row in table] == list(CONSUMERS)
    assert table[1] == {
        "consumer": FILE,
        "works": False,
        "reasons": ["there is no VQModel.from_single_file"],
        "note": "",
    }
    lines = said.splitlines()
    assert [line[:3].strip() for line in lines] == ["yes" if row["works"] else "no" for row in table]
    assert lines[1] == f"no   {FILE:34}  there is no VQModel.from_single_file"


def test_a_model_directory_that_lacks_a_file_is_one_line(models: Path, tmp_path: Path, run: Run) -> None:
    for missing in ("config.json", "diffusion_pytorch_model.safetensors"):
        folder = tmp_path / missing
        folder.mkdir()
        for path in (models / "kl").iterdir():
            if path.name != missing:
                (folder / path.name).write_bytes(path.read_bytes())
        for words in (("compat", folder), ("export", "diffusers", "--model", folder, "-o", tmp_path / "out")):
            status, said, errors = run(*words)
            assert (status, said, len(errors)) == (2, "", 1)
            assert str(folder) in errors[0]
        assert not (tmp_path / "out").exists()
