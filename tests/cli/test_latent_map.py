"""`latent-ae map`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_ae.inference.latent_map import PANEL
from tests.cli.conftest import FP32, Run
from tests.data.images import noise_image


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_map_of_a_model(kind: str, models: Path, tmp_path: Path, run: Run) -> None:
    out, report = tmp_path / "map.png", tmp_path / "map.json"
    words = ("--data.source", "digits", "-o", out, "--count", 30, "--steps", 4, "--json", report, *FP32)
    status, said, errors = run("map", models / kind, *words)
    assert (status, errors) == (0, [])
    first, second = said.splitlines()
    assert first.startswith(f"wrote {out}: 30 held-out images on two components with ")
    assert second.startswith("the nearest of 30 training images is of the same class for ")
    with Image.open(out) as image:
        assert image.size == (2 * PANEL + 2, PANEL)
    measured = json.loads(report.read_text())
    assert np.array(measured["points"]).shape == (30, 2)
    assert 0 < measured["explained_variance"] < 1
    assert 0 <= measured["neighbour_accuracy"] <= 1


def test_images_without_classes_and_of_any_size(models: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(9):
        noise_image(seed, 12 + seed, 20 - seed).save(folder / f"{seed}.png")
    images = ("--data.path", folder, "--data.heldout_share", "0.5")
    more = ("--size", "12", "--traversals", tmp_path / "units.png")
    words = (*images, "-o", tmp_path / "map.png", *more, *FP32)
    status, said, errors = run("map", models / "kl", *words, "--steps", "2")
    assert (status, errors) == (0, [])
    with Image.open(tmp_path / "units.png") as image:
        assert image.size == (9 * 12 + 8 * 2, 8 * 12 + 7 * 2)
    assert "the rows change latent (channel, row, column) (" in said
    assert "held-out images on two components with" in said
    assert "of the same class" not in said


def test_what_a_user_must_mend_is_a_line_and_status_2(models: Path, tmp_path: Path, run: Run) -> None:
    out, digits = ("-o", tmp_path / "x.png"), ("--data.source", "digits")
    for words, message in [
        (("map", models / "kl", *out), "no run's settings say which images"),
        (("map", models / "gone", *out, *digits), "gone"),
        (("map", models / "kl", "-o", tmp_path / "x.jpg", *digits), "the name must end in .png"),
        (("map", models / "kl", *out, "--traversals", "x.gif"), "--traversals x.gif: the name must end in .png"),
        (("map", models / "kl", *out, *digits, "--size", "15"), "--size 15 is not a multiple of the model's factor 2"),
        (("map", models / "kl", *out, *digits, "--evaluation.size", "8"), "--evaluation.size has no effect on map"),
        (
            ("map", models / "kl", *out, *digits, "--count", "2"),
            "a map needs latents of 2 numbers or more and 3 images",
        ),
    ]:
        status, said, errors = run(*words, *FP32)
        assert (status, said) == (2, ""), (words, errors)
        (line,) = errors
        assert message in line
