"""`latent-ae export` as a program: its data, its messages, and a disk that is full."""

import json
import resource
import sys
from pathlib import Path

import pytest
from PIL import Image

from latent_ae.cli import main as latent_ae
from tests.export.conftest import Run, left
from tests.program.forked import fork
from tests.program.running import environment


def test_images_of_ones_own_are_what_it_is_proven_on(models: Path, tmp_path: Path, run: Run) -> None:
    for number in range(40):
        Image.new("L", (48, 40), 6 * number).save(tmp_path / f"{number:02}.png")
    words = ("export", "diffusers", "--model", models / "kl", "-o", tmp_path / "vae")
    assert run(*words, "--data.source", "folder", "--data.path", tmp_path, "--data.heldout_share", "0.2")[0] == 0
    report = json.loads((tmp_path / "vae/export_report.json").read_text())
    real = [each for each in report["comparisons"] if each["images"].startswith("held-out images of folder: ")]
    assert [3, 1, 64, 64] in [each["shape"] for each in real]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data.flip", "true"), "--data.flip has no effect on an export; use --data.source, --data.background"),
        (("--evaluation.size", "32"), "--evaluation.size has no effect on an export; "),
        (("--data.source", "folder"), "data.source folder needs data.path"),
        (("--data.source", "folder", "--data.path", "/nowhere"), "/nowhere"),
    ],
)
def test_wrong_settings_are_one_line(
    options: tuple[str, ...], message: str, models: Path, tmp_path: Path, run: Run
) -> None:
    status, _, errors = run("export", "diffusers", "--model", models / "kl", "-o", tmp_path / "vae", *options)
    assert (status, len(errors), left(tmp_path)) == (2, 1, [])
    assert message in errors[0]


def test_a_taken_place_is_said_before_the_model_is_loaded(tmp_path: Path, run: Run) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/mine").touch()
    status, _, errors = run("export", "diffusers", "--model", "photos-kl", "-o", tmp_path / "vae")
    assert (status, left(tmp_path / "vae")) == (2, ["mine"])
    assert errors == [f"{tmp_path / 'vae'} already exists: choose another name, or remove it"]


def test_an_empty_folder_is_a_place_and_parents_are_made(models: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "vae").mkdir()
    for out in (tmp_path / "vae", tmp_path / "pipeline" / "vae"):
        assert run("export", "diffusers", "--model", models / "kl", "-o", out)[0] == 0
        assert "export_report.json" in left(out)


def test_a_model_that_gives_nan_is_not_exported(models: Path, tmp_path: Path, run: Run) -> None:
    from latent_ae.models import load_autoencoder

    model = load_autoencoder(str(models / "kl"))
    model.decoder.conv_out.bias.data[:] = float("nan")
    model.save_pretrained(tmp_path / "model")
    status, _, errors = run("export", "ldm", "--model", tmp_path / "model", "-o", tmp_path / "vae.safetensors")
    assert (status, left(tmp_path)) == (2, ["model"])
    assert "produces NaN or infinity on held-out images" in errors[0]


def test_a_vq_model_has_a_single_file_and_comes_back(models: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "vae.safetensors"
    status, said, errors = run("export", "ldm", "--model", models / "vq", "-o", file)
    assert (status, errors, left(tmp_path)) == (0, [], ["vae.config", "vae.safetensors"])
    assert "there is no VQModel.from_single_file" in said  # a warning
    assert "latent-ae import: the same to the last bit" in said
    assert run("import", file, "-o", tmp_path / "back")[0] == 0
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "back" / name).read_bytes() == (models / "vq" / name).read_bytes()


def on_a_full_disk(argv: list[str]) -> None:
    """A limit on the size of files takes the place of a full disk."""
    model, folder = argv
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    for target in ("diffusers", "ldm", "onnx", "pt2"):
        out = f"{folder}/{target}" + ".safetensors" * (target == "ldm")
        status = latent_ae(["export", target, "--model", model, "-o", out])
        sys.stderr.write(f"status {status}\n")


@pytest.mark.slow  # converts to all targets
def test_a_full_disk_is_one_line_and_leaves_nothing(models: Path, tmp_path: Path) -> None:
    words = [str(models / "kl"), str(tmp_path)]
    result = fork("tests.export.test_program:on_a_full_disk", words, environment()).finished()
    lines = [line for line in result.stderr.splitlines() if line]
    assert [line for line in lines if line.startswith("status ")] == ["status 1"] * 4, result.stderr
    assert len([line for line in lines if line.startswith("error: ")]) == 4
    assert len(lines) == 8, result.stderr
    assert left(tmp_path) == []
