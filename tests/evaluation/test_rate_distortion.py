"""Rows, table and figure of rate against distortion."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_ae.evaluation.rate_distortion import MEASURES, Row, figure, summary, write_table
from latent_ae.evaluation.report import EvaluationReport, Metric


def report(codebook: dict[str, Any] | None = None, **values: float | None) -> EvaluationReport:
    metrics = {name: Metric(value=value, unit="", protocol="", images=1) for name, value in values.items()}
    parts: dict[str, Any] = {"color_bias": (), "latents": None, "equivariance": None, "warnings": ()}
    return EvaluationReport(images=1, protocol={}, metrics=metrics, codebook=codebook, **parts)


KL = report(kl_nats=20.0, kl_bits_per_pixel=0.03, psnr=25.0, perceptual=None, active_units=0.5)


def test_a_kl_model_is_rated_by_its_kl_and_a_codebook_by_the_entropy_of_its_codes() -> None:
    assert Row.of("a", {}, KL).measures == dict(zip(MEASURES, (20.0, 0.03, 25.0, None, 0.5), strict=True))
    of_codes = Row.of("b", {}, report({"bits_per_pixel_entropy": 0.1}, kl_nats=None, psnr=20.0, active_units=None))
    assert of_codes.measures == dict(zip(MEASURES, (None, 0.1, 20.0, None, None), strict=True))


def test_the_files_hold_the_rows(tmp_path: Path) -> None:
    rows = [Row.of("one", {"loss.beta": 1e-6, "seed": 0}, KL), Row.of("two", {"loss.beta": 2.0, "seed": 0}, KL)]
    varied = ["loss.beta", "seed"]
    assert [file.name for file in write_table(tmp_path, varied, rows)] == ["sweep.json", "sweep.csv", "sweep.png"]
    saved = json.loads((tmp_path / "sweep.json").read_text())
    assert saved["runs"][0] == {"run": "one", "loss.beta": 1e-6, "seed": 0, **rows[0].measures}
    with (tmp_path / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["loss.beta"]) for line in table] == [1e-6, 2.0]
    assert (table[0]["psnr"], table[0]["perceptual"]) == ("25.0", "")
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.size == (960, 640)
    assert [line.split()[0] for line in summary(varied, rows).splitlines()] == ["loss.beta", "1e-06", "2.0"]


def test_without_a_rate_there_is_no_figure(tmp_path: Path) -> None:
    rows = [Row.of("identity", {"seed": 0}, report(psnr=30.0))]
    assert [file.name for file in write_table(tmp_path, ["seed"], rows)] == ["sweep.json", "sweep.csv"]


@pytest.mark.parametrize("points", [[(0.0, 20.0, "")], [(0.0, 0.0, ""), (1.0, 10.0, ""), (0.5, 5.0, "")]])
def test_points_are_drawn_where_they_are(points: list[tuple[float, float, str]]) -> None:
    """The extremes lie on opposite corners of the axes, and the one between in the middle of the line."""
    picture = figure(points, caption="")
    blue = np.argwhere((picture == (31, 95, 168)).all(-1))
    (top, left), (bottom, right) = blue.min(0) + 5, blue.max(0) - 5
    if len(points) == 1:
        assert (top, left) == (bottom, right)
    else:
        assert (left, right, top, bottom) == (90, 810, 60, 560)
        assert (picture[310, 450] == (31, 95, 168)).all()
