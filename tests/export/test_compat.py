"""`latent-ae compat`: which loader takes which config, why not, and what is wrong in silence."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, VQModel

from latent_ae.config import ModelConfig
from latent_ae.export import EXPORTERS, compat
from latent_ae.export.compat import Verdict
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from tests.export.conftest import Run
from tests.models.stock_models import arguments, filled, ldm_tensors, stock

LOADERS = {name: loader for exporter in EXPORTERS.values() for name, loader in exporter.loaders.items()}
FOLDER, FILE = "diffusers from_pretrained", "AutoencoderKL.from_single_file"
SD, XL, SHIFTING = (f"diffusers {name} pipelines" for name in ("SD 1.x and 2.x", "SDXL", "SD3 and FLUX"))
SUPER, LDM, SGM, COMFY = "diffusers LDM super-resolution", "latent-diffusion", "generative-models", "ComfyUI VAELoader"
KOHYA_FOLDER, KOHYA_FLUX = "kohya load_vae, a folder", "kohya flux_utils.load_ae"
MLX, NEXT_FOLDER, INVOKE_FOLDER = "MLX stable_diffusion", "SD.Next, a folder", "InvokeAI, a folder"
ALWAYS = {FOLDER, "OpenVINO", "ONNX Runtime", "onnxruntime-web", "torch.export"}
OPTIMUM = {"optimum, ONNX Runtime", "optimum-intel, OpenVINO"}
ANY_KL = {SD, XL, SHIFTING, *OPTIMUM}
FILES_OF_4 = {
    "A1111, SD and SDXL",
    "Forge, SD and SDXL",
    "kohya load_vae, a file",
    "InvokeAI, a file for SD and SDXL",
    "SD.Next, a file for SD and SDXL",
}
FILES_OF_16 = {
    "A1111, SD3",
    "Forge, SD3 and FLUX.1",
    "kohya sd3_utils.load_vae",
    KOHYA_FLUX,
    "InvokeAI, a file for FLUX.1",
    "SD.Next, a file for SD3 and FLUX.1",
    "MLX flux",
}
DROPPING = {"Forge, SD3 and FLUX.1", KOHYA_FLUX, "SD.Next, a file for SD3 and FLUX.1"}
"""of FILES_OF_16, those that drop what they have no place for without a word"""
SIDES_OF_8 = {KOHYA_FOLDER, INVOKE_FOLDER}


def judged(preset: str, *, kind: str = "kl", **config: Any) -> dict[str, Verdict]:
    """A preset with some keys of its config changed, judged without its weights."""
    bottleneck = BOTTLENECKS[kind](**({"codebook_size": 8} if kind == "vq" else {}))
    with torch.device("meta"):
        model = build_autoencoder(ModelConfig(preset=preset), bottleneck, seed=0, resolution=64)
    model.register_to_config(**config)
    return of(model)


def built(**changes: Any) -> dict[str, Verdict]:
    """A stock model of Stable Diffusion's architecture but for these arguments."""
    given = arguments(
        128, 256, 512, 512, layers_per_block=2, latent_channels=16, attention=changes.pop("attention", ())
    )
    with torch.device("meta"):
        return of(AutoencoderKL(**given | {"norm_num_groups": 32} | changes))


def of(model: AutoencoderKL | VQModel) -> dict[str, Verdict]:
    return {verdict.consumer: verdict for verdict in compat(model)}


def works(verdicts: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.works} - ALWAYS


NONE = {"use_quant_conv": False, "use_post_quant_conv": False}


@pytest.mark.parametrize(
    ("preset", "kind", "expected"),
    [
        ("sd", "kl", {FILE, *ANY_KL, *FILES_OF_4, *SIDES_OF_8, LDM, SGM, COMFY, MLX, NEXT_FOLDER}),
        ("sd3", "kl", {FILE, *ANY_KL, *FILES_OF_16, SGM, COMFY, NEXT_FOLDER}),
        ("kl-f4", "kl", {FILE, *ANY_KL, LDM, SGM, COMFY, MLX, NEXT_FOLDER}),
        ("kl-f16", "kl", {FILE, *ANY_KL, LDM, SGM, MLX, NEXT_FOLDER}),
        ("photos-f4", "kl", {FILE, *ANY_KL, NEXT_FOLDER}),
        ("digits", "kl", {FILE, *ANY_KL, MLX}),
        ("vq-f8", "vq", {LDM}),
        ("digits", "vq", {SUPER}),
    ],
)
def test_the_presets(preset: str, kind: str, expected: set[str]) -> None:
    verdicts = judged(preset, kind=kind)
    assert list(verdicts) == list(LOADERS)
    assert works(verdicts) == expected
    assert all(verdicts[name].works for name in ALWAYS)
    for verdict in verdicts.values():
        assert bool(verdict.note) == verdict.works == (not verdict.reasons)
        assert verdict.works or not verdict.warnings
        assert not (verdict.works and verdict.silent)


def test_every_row_says_where_it_was_seen_and_whether_it_was_run() -> None:
    for name, loader in LOADERS.items():
        how, _, where = loader.seen.partition(", ")
        assert how.split(",")[0] in ("run", "read"), name
        assert any(letter.isdigit() for letter in where), name


@pytest.mark.parametrize(
    ("changes", "silent"),
    [
        # 1x1 convolutions are dropped, which moves latents and images; strict loaders refuse the file.
        ({}, DROPPING),
        (NONE | {"layers_per_block": 3}, DROPPING),
        (NONE | {"attention": (3,)}, DROPPING),
        # What is missing is left at random by two, and fails later in the third.
        (NONE | {"layers_per_block": 1}, DROPPING - {KOHYA_FLUX}),
        (NONE | {"mid_block_add_attention": False}, DROPPING - {KOHYA_FLUX}),
        # No tensor says these: nobody can refuse them.
        (NONE | {"norm_num_groups": 16}, FILES_OF_16),
        (NONE | {"act_fn": "mish"}, FILES_OF_16),
        (NONE | {"latent_channels": 8}, set()),
        (NONE | {"block_out_channels": (64, 128, 256, 256)}, set()),
        (NONE | {"in_channels": 1, "out_channels": 1}, set()),
    ],
)
def test_who_is_wrong_without_a_word(changes: dict[str, Any], silent: set[str]) -> None:
    verdicts = built(**changes)
    assert not any(verdicts[name].works for name in FILES_OF_16)
    assert {name for name in FILES_OF_16 if verdicts[name].silent} == silent


def test_what_a_loader_does_not_look_at_is_wrong_without_a_word() -> None:
    verdicts = judged("sd", norm_num_groups=16)
    assert all(verdicts[name].silent for name in (LDM, SGM, COMFY, *FILES_OF_4))
    assert verdicts[MLX].works
    assert judged("sd3")[MLX].silent


def test_a_loader_that_leaves_what_is_missing_at_random_is_run(tmp_path: Path) -> None:
    """As SD.Next loads a file: diffusers with Stable Diffusion's config, in small. What `names="fills"` stands for."""
    small = arguments(32, 64, layers_per_block=2, norm_num_groups=32)
    expected = filled(AutoencoderKL, small)
    expected.save_pretrained(tmp_path / "config")
    for changes in ({}, NONE, {"layers_per_block": 3}):
        model = filled(AutoencoderKL, small | changes)
        safetensors.torch.save_file(ldm_tensors(model), tmp_path / "vae.safetensors")
        loaded = AutoencoderKL.from_single_file(
            str(tmp_path / "vae.safetensors"), config=str(tmp_path / "config"), low_cpu_mem_usage=False
        ).eval()
        pixels = torch.rand(1, 3, 16, 16)
        with torch.no_grad():
            same = loaded(pixels).sample.equal(model(pixels).sample)
        assert same == (not changes)


def test_a_scale_that_is_built_in_is_compared_with_the_models() -> None:
    verdicts = judged("sd3", scaling_factor=0.9, shift_factor=0.1)
    assert verdicts[KOHYA_FLUX].warnings == (
        "it scales latents by 0.3611, shift 0.1159 (FLUX.1), not by the config's 0.9, shift 0.1",
    )
    assert verdicts[COMFY].warnings == (
        "it scales latents by 1.5305, shift 0.0609 (SD3) or 0.3611, shift 0.1159 (FLUX.1), not by the config's 0.9, "
        "shift 0.1",
    )
    assert {name for name, verdict in verdicts.items() if verdict.warnings} == FILES_OF_16 | {COMFY, SD, XL}
    flux = judged("sd3", scaling_factor=0.3611, shift_factor=0.1159)
    assert (flux[KOHYA_FLUX].warnings, flux[COMFY].warnings) == ((), ())
    assert flux["kohya sd3_utils.load_vae"].warnings
    # Nobody's latents have 8 channels: the scale is the diffusion model's.
    assert built(**NONE, latent_channels=8)[COMFY].warnings == ()


def test_a_shift_is_ignored_by_some_and_needed_by_others() -> None:
    verdicts = judged("sd", shift_factor=0.3)
    ignored = ("it ignores shift_factor 0.3: ignore it in training too",)
    assert all(verdicts[name].warnings == ignored for name in (SD, XL, INVOKE_FOLDER, MLX))
    assert verdicts[SHIFTING].warnings == ()
    missing = judged("sd", shift_factor=None)
    assert missing[SHIFTING].reasons == (
        "adds shift_factor, which is not a number in this config (latent-ae export diffusers writes 0.0)",
    )
    assert missing[SD].works


def test_statistics_by_channel_are_for_sdxl_with_four_channels() -> None:
    four, sixteen = (judged(preset, latents_mean=[0.0], latents_std=[1.0]) for preset in ("sd", "sd3"))
    assert (four[SD].reasons, four[SHIFTING].reasons) == (("ignores latents_mean and latents_std",),) * 2
    assert four[XL].works
    assert sixteen[XL].reasons == ("applies latents_mean to 4 channels, got 16",)


def test_every_reason_against_stable_diffusions_own_architecture_is_named() -> None:
    reasons = judged("digits")["A1111, SD and SDXL"].reasons
    assert reasons == (
        "needs RGB images, got 1 channels",
        "needs the widths 128, 256, 512, 512, got 8, 24, 32, 64",
        "needs 4 latent channels, got 3",
        "needs 2 layers per level, got 1",
        "needs 32 normalisation groups, got 1",
    )


def test_channels_by_which_comfyui_tells_other_models() -> None:
    assert built(latent_channels=64)[COMFY].reasons == (
        "64 latent channels: mistaken for HunyuanImage's, since 0.3.58 (2025-09)",
    )
    assert built(**NONE, latent_channels=32)[COMFY].warnings == (
        "32 latent channels: versions of 2025-10 and 2025-11 (0.3.63 until FLUX.2) mistake them for HunyuanVideo's",
    )
    half = built(use_quant_conv=False)[COMFY]
    assert half.reasons == ("needs both 1x1 convolutions around the latents or neither",)
    assert half.silent


def test_other_reasons() -> None:
    assert of(stock("latent-diffusion f16"))[FILE].reasons == ("its key map leaves out attention in levels",)
    assert of(stock("one 1x1 convolution"))[SD].reasons == ("needs as many channels out as in, got 4 in and 3 out",)
    for name in ("codebook", "vqgan", "movq"):  # a class that is not taken is reason enough
        assert of(stock(name))[FILE].reasons == ("there is no VQModel.from_single_file",)
    assert judged("sd")[SUPER].reasons == ("needs a VQModel, got an AutoencoderKL",)
    assert of(stock("wider vectors"))[SUPER].reasons == (
        "concatenates latents with an RGB image: needs 3 latent channels, got 6",
    )
    assert "has no decoder normalised by the latents (MoVQ)" in of(stock("movq"))[LDM].reasons
    assert "needs widths that are multiples of the first, got 8, 4, 12" in (
        of(stock("grey, uneven widths"))[SGM].reasons
    )
    assert judged("kl-f4")[KOHYA_FOLDER].reasons == (
        "needs a downsampling factor of 8, got 4",
        "needs 4 latent channels, got 3",
    )
    for name in OPTIMUM:
        assert judged("sd", scaling_factor=None)[name].reasons == ("needs scaling_factor, which is not a number",)


def test_there_is_no_loader_of_a_single_vq_file() -> None:
    assert not hasattr(VQModel, "from_single_file")


def test_a_network_without_a_number_of_channels_takes_what_the_file_has() -> None:
    assert built(**NONE, latent_channels=5)[COMFY].works


def test_the_command_says_it_and_writes_it(models: Path, tmp_path: Path, run: Run) -> None:
    status, said, errors = run("compat", models / "vq", "--json", tmp_path / "compat.json")
    assert (status, errors) == (0, [])
    table = json.loads((tmp_path / "compat.json").read_text())
    assert [row["consumer"] for row in table] == list(LOADERS)
    row = next(row for row in table if row["consumer"] == FILE)
    assert row == {
        "consumer": FILE,
        "works": False,
        "reasons": ["there is no VQModel.from_single_file"],
        "silent": False,
        "warnings": [],
        "note": "",
        "seen": LOADERS[FILE].seen,
    }
    lines = [line for line in said.splitlines() if not line.startswith(" ")]
    words = ["warn" if row["warnings"] else "yes" if row["works"] else "no" for row in table]
    assert [line[:4].strip() for line in lines] == words
    assert lines[table.index(row)] == f"no    {FILE:34}  there is no VQModel.from_single_file [{LOADERS[FILE].seen}]"


def test_the_command_warns_and_says_who_is_silent(tmp_path: Path, run: Run) -> None:
    """A config alone decides: the weights are those of a small model of the same kind."""
    _, said, _ = run("compat", _flux_with_quant_convs(tmp_path))
    lines = said.splitlines()
    kohya = next(line for line in lines if KOHYA_FLUX in line)
    assert "it loads without an error and gives wrong results: has no 1x1 convolutions around the latents" in kohya
    comfy = next(number for number, line in enumerate(lines) if COMFY in line)
    assert lines[comfy].startswith("warn  ComfyUI")
    assert lines[comfy + 1].strip().startswith("but it scales latents by 1.5305, shift 0.0609 (SD3)")


def _flux_with_quant_convs(folder: Path) -> Path:
    given = arguments(128, 256, 512, 512, layers_per_block=2, latent_channels=16) | {"norm_num_groups": 32}
    AutoencoderKL(**given).save_pretrained(folder)
    return folder


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
