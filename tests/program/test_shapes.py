"""Runs over rectangles, over whole images that are padded, and over the cells of a sheet."""

import json
from pathlib import Path

import pytest
from PIL import Image

from latent_ae.models import load_autoencoder
from tests.data.images import noise_image
from tests.program.running import arguments

pytestmark = pytest.mark.slow  # whole runs

FOLDER = ["--data.source", "folder", "--data.heldout_share", "0.3", "--train.batch_size", "4"]


def write(folder: Path, *images: Image.Image) -> None:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")


def test_a_run_on_rectangles_trains_and_codes_without_padding(main, tmp_path: Path, capsys) -> None:
    write(tmp_path / "images", *(noise_image(seed, 150, 60) for seed in range(8)))
    argv = [*FOLDER, "--data.path", str(tmp_path / "images"), "--data.resolution", "24", "64", "--data.crop", "random"]
    assert main([*arguments(tmp_path / "runs", 2, *argv), "--evaluation.size", "24", "64"]) == 0
    assert "1x24x64 -> 2x12x32 latents" in capsys.readouterr().out
    run = tmp_path / "runs" / "run"
    model = load_autoencoder(str(run / "model"))
    assert list(model.config["sample_size"]) == [24, 64]
    report = json.loads((run / "evaluation.json").read_text())
    assert report["protocol"]["size_rule"] == "largest centred part of 24x64, resized"
    with Image.open(run / "model" / "draws.png") as draws:
        assert draws.size == (16 * 66 - 2, 4 * 26 - 2)


def test_a_run_on_the_sprites_of_one_sheet(main, tmp_path: Path, capsys) -> None:
    write(tmp_path / "images", noise_image(0, 60, 40))
    argv = [*FOLDER, "--data.path", str(tmp_path / "images"), "--data.grid", "4", "6", "--data.fit", "pad"]
    argv += ["--data.filter", "nearest", "--data.resolution", "32", "24", "--evaluation.size", "32"]
    assert main(arguments(tmp_path / "runs", 2, *argv)) == 0
    said = capsys.readouterr().out
    assert "held-out images; its cells are divided between training and held-out part, as there is one file" in said
    report = json.loads((tmp_path / "runs" / "run" / "evaluation.json").read_text())
    assert report["protocol"]["size_rule"] == "scaled to fit into 32x32, filter nearest"
    assert main(arguments(tmp_path / "other", 2, *argv, "--data.grid", "4", "7")) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "data.grid 4 7 does not divide 0.png, 40 pixels high and 60 wide: 4 rows and 6 columns would" in line
