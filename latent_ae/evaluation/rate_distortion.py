"""Rate against distortion of several models: a table as JSON and CSV, and a figure."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latent_ae.evaluation.report import EvaluationReport
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image import save_png

MEASURES: Mapping[str, str] = {
    "rate_nats": "nats an image: the KL of the posterior to N(0, 1); null for a codebook",
    "rate_bits_per_pixel": "the same in bits a pixel; for a codebook the codes' entropy",
    "psnr": "dB, of held-out reconstructions from the mode",
    "perceptual": "by evaluation.perceptual; null if that is none",
    "active_units": "share of the latent units whose mode varies over held-out images; null for a codebook",
}
"""the columns beside the varied fields, and what they are"""
_WIDTH, _HEIGHT = 960, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 150, 60, 80
_INK, _GRID, _MARK = (32, 32, 32), (224, 224, 224), (31, 95, 168)


@dataclass(frozen=True)
class Row:
    """A model's values."""

    run: str
    values: Mapping[str, Any]
    """of the varied fields"""
    measures: Mapping[str, float | None]
    """by the names of MEASURES"""

    @classmethod
    def of(cls, run: str, values: Mapping[str, Any], report: EvaluationReport) -> Self:
        """The row of a model by its evaluation."""
        found = {name: metric.value for name, metric in report.metrics.items()}
        rate = found.get("kl_bits_per_pixel")
        if report.codebook is not None:
            rate = report.codebook["bits_per_pixel_entropy"]
        measures = (found.get("kl_nats"), rate, *(found.get(name) for name in ("psnr", "perceptual", "active_units")))
        return cls(run, values, dict(zip(MEASURES, measures, strict=True)))

    def label(self) -> str:
        """The varied values, each with the last part of its field's name where there are several."""
        if len(self.values) == 1:
            return " ".join(map(str, self.values.values()))
        return ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in self.values.items())


def write_table(folder: Path, varied: Sequence[str], rows: Sequence[Row]) -> list[Path]:
    """Write sweep.json, sweep.csv and, where models have a rate, sweep.png into a folder. Raises OSError."""
    files = [folder / "sweep.json", folder / "sweep.csv"]
    report = {
        "schema": 1,
        "varied": list(varied),
        "measures": dict(MEASURES),
        "runs": [{"run": row.run, **row.values, **row.measures} for row in rows],
    }
    write_atomically(files[0], (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*varied, *MEASURES])
    table.writerows([[*row.values.values(), *row.measures.values()] for row in rows])
    write_atomically(files[1], text.getvalue().encode())
    points = [
        (rate, psnr, row.label())
        for row in rows
        if (rate := row.measures["rate_bits_per_pixel"]) is not None and (psnr := row.measures["psnr"]) is not None
    ]
    if points:
        files.append(folder / "sweep.png")
        save_png(files[-1], figure(points, caption=" and ".join(varied)))
    return files


def summary(varied: Sequence[str], rows: Sequence[Row]) -> str:
    """The table for the terminal."""
    names = [*varied, *MEASURES]
    cells = [
        [*map(str, row.values.values()), *("-" if v is None else f"{v:.4g}" for v in row.measures.values())]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (names, *cells)
    )


def figure(points: Sequence[tuple[float, float, str]], *, caption: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Points (bits a pixel, PSNR in dB, label), joined in the order of their rate => a picture [H,W,3] uint8."""
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    small, large = (ImageFont.load_default(size) for size in (16, 20))
    across, up = _ticks([rate for rate, _, _ in points]), _ticks([psnr for _, psnr, _ in points])

    def place(rate: float, psnr: float) -> tuple[float, float]:
        x = _LEFT + (rate - across[0]) / (across[-1] - across[0]) * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - (psnr - up[0]) / (up[-1] - up[0]) * (_HEIGHT - _TOP - _BOTTOM)

    for tick in across:
        x, y = place(tick, up[0])
        draw.line((x, _TOP, x, y), _GRID)
        draw.text((x, y + 8), f"{tick:g}", _INK, small, anchor="mt")
    for tick in up:
        x, y = place(across[0], tick)
        draw.line((x, y, _WIDTH - _RIGHT, y), _GRID)
        draw.text((x - 8, y), f"{tick:g}", _INK, small, anchor="rm")
    draw.text((_LEFT, 20), f"PSNR in dB, at each {caption}", _INK, large)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    draw.text((middle, _HEIGHT - 20), "rate in bits a pixel", _INK, large, anchor="mb")
    ordered = sorted(points)
    places = [place(rate, psnr) for rate, psnr, _ in ordered]
    draw.line(places, _MARK, 2)
    lowest = float(_HEIGHT)
    for (x, y), (_, _, label) in sorted(zip(places, ordered, strict=True), key=lambda each: -each[0][1]):
        lowest = min(y, lowest - 18)  # labels do not cover one another
        fits = x + 10 + draw.textlength(label, small) <= _WIDTH
        start, anchor = (x + 10, "lm") if fits else (x - 10, "rm")
        draw.text((start, lowest), label, _INK, small, anchor, stroke_width=3, stroke_fill="white")
    for x, y in places:
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), _MARK)
    return np.asarray(picture)


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers from at most the lowest to at least the highest value."""
    low, high = min(values), max(values)
    span = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    unit = 10.0 ** np.floor(np.log10(span / 4))
    step = float(next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5))
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]
