"""A run whose images are measured whole, and are large: in strips, with the same report, and said before it starts."""

import json
from pathlib import Path

import pytest
from PIL import Image

from latent_ae.evaluation import forecast
from latent_ae.training import validation
from tests.data.images import noise_image
from tests.program.running import arguments

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """The settings of a run on a folder of images of 60x44 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(8):
        noise_image(number, 60, 44).save(folder / f"{number}.png")
    return [
        *("--data.source", "folder", "--data.path", str(folder), "--data.heldout_share", "0.5"),
        *("--train.batch_size", "4", "--evaluation.size", "null", "--evaluation.perceptual", "random_features"),
    ]


def test_large_images_give_the_report_and_the_scale_of_images_at_once(
    main, tmp_path: Path, given, capsys, monkeypatch
) -> None:
    found = {}
    for name, pixels, (width, height) in [("whole", "1000000", (60, 44)), ("strips", "1000", (48, 44))]:
        monkeypatch.setattr(validation, "PICTURE_SIDE", width)  # of larger images the centre is shown
        assert main([*arguments(tmp_path / name, 2, *given), "--evaluation.pixels_at_once", pixels]) == 0
        line = "measuring 4 images and the latents of 4, of up to 0.0 megapixels: about "
        assert (line in capsys.readouterr().out) == (name == "strips")
        model = tmp_path / name / "run" / "model"
        report = json.loads((tmp_path / name / "run" / "evaluation.json").read_text())
        values = [metric["value"] for metric in report["metrics"].values() if metric["value"] is not None]
        found[name] = [*values, json.loads((model / "config.json").read_text())["scaling_factor"]]
        with Image.open(model / "reconstructions.png") as picture:
            assert picture.size == (4 * (width + 2) - 2, 2 * (height + 2) - 2)
    assert found["strips"] == pytest.approx(found["whole"], rel=1e-4)


def test_images_that_cannot_be_measured_are_refused_before_the_training(
    main, tmp_path: Path, given, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(forecast, "available_bytes", lambda _: 1 << 20)
    assert main([*arguments(tmp_path / "runs", 2, *given), "--evaluation.pixels_at_once", "1000"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: measuring images of 60x44 pixels would take about" in line
    assert "1 MiB are free beside 0 MiB of training images (data.keep_mib): give" in line  # 4 of 60x44
    assert not (tmp_path / "runs" / "run" / "metrics.jsonl").exists()
