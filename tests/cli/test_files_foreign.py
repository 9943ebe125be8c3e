"""`encode --suffix .latent` and `decode --foreign`: files for ComfyUI, of ComfyUI, and of a re-saved encoder."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from PIL import Image

from latent_ae.io.image import from_tensor
from latent_ae.io.latent_file.latents import read_latents
from tests.cli.conftest import FP32, Run, state

MARKER = {"latent_format_version_0": torch.empty(0)}


@torch.no_grad()
def stock(model: Path, latents: torch.Tensor) -> np.ndarray:
    """[N,H,W] levels of what stock diffusers decodes."""
    return from_tensor(AutoencoderKL.from_pretrained(model).eval().decode(latents).sample)[..., 0].astype(int)


def shown(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


def test_files_with_comfyuis_suffix_hold_what_its_loader_reads(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    model = ("--model", models / "kl", *FP32)
    words = ("encode", photos, "-o", tmp_path / "comfy", *model, "--suffix", ".latent")
    assert run(*words)[0] == 0
    run("encode", photos, "-o", tmp_path / "ours", *model)
    files = sorted(tmp_path.joinpath("comfy").rglob("*"))
    assert {file.suffix for file in files if file.is_file()} == {".latent"}
    read = safetensors.torch.load_file(tmp_path / "comfy" / "odd.latent")  # LoadLatent's rule from here on
    scale = 1.0 if "latent_format_version_0" in read else 1.0 / 0.18215
    ours = read_latents(tmp_path / "ours" / "odd.safetensors")
    assert torch.equal(read["latent_tensor"].float() * scale, ours.tensor)
    assert run(*words)[1].endswith("7 were there already\n")
    assert run("decode", tmp_path / "comfy", "-o", tmp_path / "out", *model)[0] == 0
    assert len(state(tmp_path / "out")) == 7
    status, _, errors = run("encode", photos, "-o", tmp_path / "x", "--model", models / "vq", "--suffix", ".latent")
    assert (status, errors[0].split(":")[0]) == (2, "--suffix .latent")


def test_latents_of_comfyui_are_decoded_by_the_model_that_is_named(models: Path, tmp_path: Path, run: Run) -> None:
    latents = torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "comfy"
    folder.mkdir()
    safetensors.torch.save_file({"latent_tensor": latents, **MARKER}, folder / "raw.latent", {"prompt": "{}"})
    safetensors.torch.save_file({"latent_tensor": latents[:, :, None], **MARKER}, folder / "still.latent")
    safetensors.torch.save_file({"latent_tensor": latents * 0.18215}, folder / "old.latent")
    safetensors.torch.save_file({"latent_tensor": latents[:, :1].contiguous(), **MARKER}, folder / "thin.latent")
    words = ("decode", folder, "-o", tmp_path / "out", "--model", models / "kl", *FP32)
    status, said, errors = run(*words)
    assert (status, len(errors)) == (1, 4)
    assert all("decode with --foreign" in line for line in errors)
    status, said, errors = run(*words, "--foreign")
    assert status == 1
    (thin,) = errors
    assert thin.startswith(f"{folder / 'thin.latent'}: the file holds latents of 1 channels")
    assert [line.partition(" of ")[0] for line in said.splitlines()] == [
        "decoded 3",
        "note: 1 file taken as latents",
        "note: 2 files taken as raw latents",
    ]
    wanted = stock(models / "kl", latents)
    for name in ("raw", "still", "old"):
        for number in (1, 2):
            difference = shown(tmp_path / "out" / f"{name}-{number:04d}.png") - wanted[number - 1]
            assert np.abs(difference).max() <= 1
    assert "3 were there already" in run(*words, "--foreign")[1]


def test_latents_of_an_encoder_that_was_saved_again_are_decoded(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    AutoencoderKL.from_pretrained(models / "kl", torch_dtype=torch.bfloat16).save_pretrained(tmp_path / "again")
    run("encode", photos / "odd.png", "-o", tmp_path, "--model", models / "kl", *FP32)
    words = ("decode", tmp_path / "odd.safetensors", "-o", tmp_path / "out", "--model", tmp_path / "again", *FP32)
    status, _, errors = run(*words)
    assert status == 1
    assert "these latents are of the encoder" in errors[0]
    assert "decode with --foreign" in errors[0]
    status, said, _ = run(*words, "--foreign")
    assert status == 0
    assert "although the file says that the encoder" in said
    wanted = stock(tmp_path / "again", read_latents(tmp_path / "odd.safetensors").tensor)[0, :13, :21]
    assert np.abs(shown(tmp_path / "out" / "odd.png") - wanted).max() <= 1


@pytest.mark.parametrize("mine", [True, False])
def test_foreign_needs_a_model_and_assumes_nothing_of_what_fits(
    mine: bool, models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    run("encode", photos / "odd.png", "-o", tmp_path, "--model", models / "kl", *FP32)
    words = ("decode", tmp_path / "odd.safetensors", "-o", tmp_path / "out", "--foreign", *FP32)
    status, said, errors = run(*words, *(("--model", models / "kl") if mine else ()))
    assert (status, said) == ((0, f"decoded 1 of 1 files into {tmp_path / 'out'}\n") if mine else (2, ""))
    assert errors == ([] if mine else ["--foreign needs --model: such files do not say which model decodes them"])
