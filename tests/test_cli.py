"""`latent-ae`: exact numbers, and one line and a status for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from latent_ae import __version__
from latent_ae.cli import main, options, programs
from latent_ae.config import ModelConfig
from latent_ae.data import DigitsConfig
from latent_ae.export import EXPORTERS
from latent_ae.inference.precision import PRECISIONS
from latent_ae.models import build_autoencoder

FEW = ["--data.source", "digits", "--evaluation.max_images", "6", "--evaluation.batch_size", "4"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).save_pretrained(folder)
    return folder


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], status: int = 2) -> str:
    assert main(argv) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    return line


def report_of(model_dir: Path, file: Path, *more: str) -> dict:
    assert main(["evaluate", str(model_dir), *FEW, "--json", str(file), *more]) == 0
    return json.loads(file.read_text())


def test_evaluate_measures_the_held_out_digits(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(model_dir, tmp_path / "report.json", "--part", "heldout")
    model = AutoencoderKL.from_pretrained(model_dir)
    heldout = DigitsConfig().open().heldout
    psnr, l1 = [], []
    for index in (place * len(heldout) // 6 for place in range(6)):
        pixels = torch.from_numpy(np.asarray(heldout.load(index), dtype=np.float32))[None, None] / 127.5 - 1
        with torch.no_grad():
            error = model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1) - pixels
        psnr.append(10 * np.log10(4 / float(error.square().mean())))
        l1.append(float(error.abs().mean()))
    assert report["images"] == 6
    assert report["complete"] is True
    assert report["metrics"]["psnr"]["value"] == pytest.approx(np.mean(psnr), abs=1e-4)
    assert report["metrics"]["l1"]["value"] == pytest.approx(np.mean(l1), rel=1e-5)
    assert report["metrics"]["psnr"]["protocol"].startswith("data range 2 on [-1, 1]")
    assert report["protocol"]["data"] == "digits, held-out part"
    assert report["protocol"]["latents"] == "posterior mode"
    assert report["protocol"]["size_rule"] == "whole images at their own size"
    assert report["metrics"]["perceptual"]["value"] is None
    assert report["metrics"]["perceptual"]["reason"] == "not asked for (evaluation.perceptual none)"
    out = capsys.readouterr().out
    assert f"{np.mean(psnr):.5g} dB" in out


def test_evaluate_the_training_part_on_samples(model_dir: Path, tmp_path: Path) -> None:
    heldout = report_of(model_dir, tmp_path / "heldout.json", "--part", "heldout")
    train = report_of(model_dir, tmp_path / "train.json", "--part", "train")
    sample = report_of(model_dir, tmp_path / "sample.json", "--sample")
    assert train["protocol"]["data"] == "digits, training part"
    assert sample["protocol"]["latents"] == "posterior sample, seed 0"
    assert len({report["metrics"]["psnr"]["value"] for report in (heldout, train, sample)}) == 3
    assert sample == report_of(model_dir, tmp_path / "again.json", "--sample")


def test_evaluate_with_another_size_and_a_distance(model_dir: Path, tmp_path: Path) -> None:
    settings = ["--evaluation.size", "16", "--evaluation.perceptual", "random_features"]
    report = report_of(model_dir, tmp_path / "report.json", *settings)
    assert report["protocol"]["size_rule"] == "shorter side resized to 16, centre crop 16x16"
    assert report["metrics"]["perceptual"]["value"] > 0
    assert report["metrics"]["perceptual"]["protocol"].startswith("random_features v1")
    assert report["metrics"]["ms_ssim"]["value"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "was trained on: give --data.path DIR, or --data.source, one of digits, photos, folder, hub, stream"),
        (["--data.source", "nowhere"], "data.source: got 'nowhere', expected one of digits"),
        (["--data.source", "folder"], "data.source folder needs data.path"),
        ([*FEW, "--evaluation.max_image", "3"], "did you mean --evaluation.max_images?"),
        (
            [*FEW, "--evaluation.size", "4"],
            "evaluation.size takes the side of a square, or height and width, of at least 8 pixels, got 4",
        ),
        ([*FEW, "surplus"], "surplus"),
        ([*FEW, "--train.steps", "3"], "unknown option --train.steps"),
    ],
)
def test_evaluate_refuses(model_dir: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert message in refused(capsys, ["evaluate", str(model_dir), *more])


def test_a_model_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing")
    assert f"{missing}: there is no such folder or file" in refused(capsys, ["evaluate", missing, *FEW])


def test_a_folder_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "cannot load an autoencoder" in refused(capsys, ["evaluate", str(tmp_path), *FEW])


def test_a_report_that_cannot_be_written(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "no" / "folder.json"
    assert str(file) in refused(capsys, ["evaluate", str(model_dir), *FEW, "--json", str(file)])


def test_a_build_of_torch_for_gpus_measures_on_the_cpu_where_there_is_no_gpu(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert main(["evaluate", str(model_dir), *FEW]) == 0


def test_settings_may_stand_before_the_model(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *FEW, "--sample", str(model_dir)]) == 0
    assert "psnr" in capsys.readouterr().out


def test_settings_that_cut_training_images_are_refused(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, ["evaluate", str(model_dir), *FEW, "--data.flip", "true"])
    assert "--data.flip only crops training images and has no effect" in line


def test_the_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "any", "--settings"]) == 0
    out = capsys.readouterr().out
    assert "--data.source" in out
    assert "--evaluation.max_images" in out or "--evaluation.max-images" in out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["reconstruct", "a.png"],
        ["evaluate"],
        ["likelihood", "m", "--importance-samples", "0"],
        ["encode", "a.png", "--model", "m", "-o", "o", "--sample", "--seed", "-1"],
    ],
)
def test_what_argparse_refuses(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(argv)
    assert status.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f"; see latent-ae {argv[0]} --help" if argv else "; see latent-ae --help")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["--version"])
    assert status.value.code == 0
    assert capsys.readouterr().out == f"latent-ae {__version__}\n"


COMMANDS = ["evaluate", "likelihood", "encode", "decode", "reconstruct", "inspect", "interpolate", "sample"]
COMMANDS += ["compat", "import", "push", "verify", "convert-dataset"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main([command, "--help"])
    assert status.value.code == 0
    assert f"example: latent-ae {command} " in capsys.readouterr().out


def test_the_choices_of_arithmetic_are_those_of_the_codec() -> None:
    assert options.PRECISIONS == PRECISIONS


WITHOUT_TORCH = """
import sys
from contextlib import suppress
from latent_ae.cli import main
for line in sys.argv[1:]:
    with suppress(SystemExit):
        main(line.split())
    assert "torch" not in sys.modules, line
"""


def test_help_and_what_else_needs_no_torch_do_not_wait_for_it() -> None:
    lines = [
        "--version",
        "--help",
        "export --help",
        *(f"export {target} --help" for target in EXPORTERS),
        *(f"{command} --help" for command in COMMANDS),
        "serve --help",
        *(f"{program} --help" for program in programs.SCRIPTS),
        *(f"{program} --help all" for program in programs.SCRIPTS),
        "evaluate any --settings",
        "inspect nothing",
    ]
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *lines], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "error: nothing: No such file or directory\n")


@pytest.mark.slow  # starts the program
def test_the_program_is_installed() -> None:
    program = Path(sys.executable).parent / "latent-ae"
    run = subprocess.run([str(program), "--version"], check=False, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"latent-ae {__version__}\n", "")
