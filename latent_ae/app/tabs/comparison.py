"""Reconstructions as text: rows of a table, headline figures, captions."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from latent_ae.app.tabs import markup
from latent_ae.io.image import Pixels
from latent_ae.service.results import Baseline, Reconstruction

METRICS = {
    "PSNR": ("PSNR (dB)", "psnr_db", ".2f", "dB, higher is closer"),
    "SSIM": ("SSIM", "ssim", ".4f", "1 is the same structure"),
    "LPIPS": ("LPIPS", "lpips", ".4f", "lower looks closer"),
    "MAE": ("Mean error", "mae", ".4g", "mean absolute error in the data's units"),
    "RMSE": ("RMS error", "rmse", ".4g", "root mean squared error in the data's units"),
    "MAX": ("Largest error", "max_error", ".4g", "largest absolute error in the data's units"),
}
"""column header on the page, in the file, format, meaning"""
MEANINGS = {
    "Bits per pixel": "Bits that are stored, divided by the pixels of the image.",
    **{header: f"{meaning[:1].upper()}{meaning[1:]}." for header, _, _, meaning in METRICS.values()},
    "PSNR (dB)": "Higher is closer; 3 dB are half the squared error.",
}
"""tooltips of columns"""


@dataclass(frozen=True)
class Row:
    """One form of the image: its size and how close it is."""

    what: str
    bytes: int
    bits_per_pixel: float
    metrics: dict[str, float | None]


def rows(made: Sequence[Reconstruction], baselines: Sequence[Baseline]) -> list[Row]:
    """The upload, the latents of each model in each stored form, the baselines of the first model."""
    first = made[0]
    pixels = first.original.shape[0] * first.original.shape[1]
    found = [Row("Uploaded file", first.sizes[0].bytes, first.sizes[0].bits_per_pixel, {})]
    for each in made:
        for place, size in enumerate(each.sizes[1:]):
            metrics = each.metrics if place == 0 else {}
            found.append(Row(f"{each.model}: {size.what}", size.bytes, size.bits_per_pixel, metrics))
    for baseline in baselines:
        name = f"{baseline.name}, quality {baseline.quality}"
        found.append(Row(name, baseline.bytes, 8 * baseline.bytes / pixels, baseline.metrics))
    return found


def as_html(rows: Sequence[Row], made: Sequence[Reconstruction], baselines: Sequence[Baseline]) -> str:
    """The table with its footnotes."""
    measured = _measured(rows)
    columns = ("", "Bytes", "Bits per pixel", *(METRICS[name][0] for name in measured))
    cells = [
        (row.what, f"{row.bytes:,}", f"{row.bits_per_pixel:.3g}", *(shown(name, row.metrics) for name in measured))
        for row in rows
    ]
    return markup.table("Size and fidelity", columns, cells, notes=_footnotes(made, baselines), meanings=MEANINGS)


def as_csv(rows: Sequence[Row]) -> bytes:
    """The table in full precision, UTF-8."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    measured = _measured(rows)
    writer.writerow(["form", "bytes", "bits_per_pixel", *(METRICS[name][1] for name in measured)])
    for row in rows:
        writer.writerow([row.what, row.bytes, row.bits_per_pixel, *map(row.metrics.get, measured)])  # None is empty
    return stream.getvalue().encode()


def headline(first: Reconstruction) -> list[tuple[str, str, str]]:
    """Name, value and meaning of the main figures."""
    smallest = min(first.sizes[1:], key=lambda size: size.bytes)
    known = [name for name in METRICS if first.metrics.get(name) is not None]
    weight = ("Bits per pixel", f"{smallest.bits_per_pixel:.3g}", f"as {smallest.what}, {smallest.bytes:,} bytes")
    return [*((name, shown(name, first.metrics), METRICS[name][3]) for name in known), weight]


def pictures(made: Sequence[Reconstruction], baselines: Sequence[Baseline]) -> list[tuple[Pixels, str, str]]:
    """The original, the reconstruction of each model, and the baselines, with their names and figures."""
    return [
        (made[0].previews[0], "Original", ""),
        *((each.previews[1], each.model, closeness(each.metrics)) for each in made),
        *((baseline.image, baseline.name, closeness(baseline.metrics)) for baseline in baselines),
    ]


def summary(made: Sequence[Reconstruction]) -> str:
    """A sentence about each model."""
    return " ".join(map(_sentence, made))


def _sentence(each: Reconstruction) -> str:
    height, width = each.original.shape[:2]
    tiles = ""
    if each.decoding.tiles > 1:
        seam = f", which agree to {each.seam_db:.1f} dB where they overlap" if each.seam_db is not None else ""
        tiles = f" in {each.decoding.tiles} tiles, an approximation{seam},"
    return (
        f"{each.model}: {width} \N{MULTIPLICATION SIGN} {height} pixels encoded and decoded{tiles} "
        f"in {each.seconds:.2f} s."
    )


def _footnotes(made: Sequence[Reconstruction], baselines: Sequence[Baseline]) -> list[str]:
    notes = list(dict.fromkeys(f"{name}: {reason}." for each in made for name, reason in each.notes.items()))
    larger = " and ".join(baseline.name for baseline in baselines if not baseline.reached)
    if baselines:
        rule = "JPEG and WebP have the highest quality that takes no more bytes than the smallest latents"
        notes.append(f"{rule}; even the lowest quality of {larger} takes more." if larger else f"{rule}.")
    if any(len(each.sizes) > 2 for each in made):
        notes.append("PSNR, SSIM and LPIPS are of latents in float32.")
    units = {each.pixel_format.unit or "the data's units" for each in made if each.pixel_format.numbers}
    notes += [f"Errors are in {unit}." for unit in sorted(units)]
    return notes


def _measured(rows: Sequence[Row]) -> list[str]:
    """The metrics of any of the rows."""
    return [name for name in METRICS if any(name in row.metrics for row in rows)]


def shown(name: str, metrics: dict[str, float | None]) -> str:
    """A metric for people; a dash where there is none."""
    value = metrics.get(name)
    return "\N{EN DASH}" if value is None else format(value, METRICS[name][2])


def closeness(metrics: dict[str, float | None]) -> str:
    """The main metrics in a few words; '' if there are none."""
    forms = {"PSNR": "{:.1f} dB", "SSIM": "SSIM {:.3f}", "LPIPS": "LPIPS {:.3f}"}
    return ", ".join(form.format(value) for name, form in forms.items() if (value := metrics.get(name)) is not None)
