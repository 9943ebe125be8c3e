"""What is told about reconstructions: rows of a table, headline figures, captions."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from latent_ae.app.tabs import markup
from latent_ae.io.image import Pixels
from latent_ae.service.results import Reconstruction, Rival

_METRICS = {"PSNR": ("PSNR (dB)", 2), "SSIM": ("SSIM", 4), "LPIPS": ("LPIPS", 4)}
"""the name in a column's head, and decimals"""
_MEANING = {"PSNR": "dB, higher is closer", "SSIM": "1 is the same structure", "LPIPS": "lower looks closer"}
_TIMES = " \N{MULTIPLICATION SIGN} "
_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Row:
    """One form of the image: what it weighs and how close it is."""

    what: str
    bytes: int
    bits_per_pixel: float
    metrics: dict[str, float | None]


def rows(made: Sequence[Reconstruction], rivals: Sequence[Rival]) -> list[Row]:
    """The upload, the latents of each model in each form they are stored in, the rivals of the first model."""
    first = made[0]
    pixels = first.original.shape[0] * first.original.shape[1]
    upload, *_ = first.sizes
    found = [Row("Uploaded file", upload.bytes, upload.bits_per_pixel, {})]
    for each in made:
        for place, size in enumerate(each.sizes[1:]):
            metrics = each.metrics if place == 0 else {}
            found.append(Row(f"{each.model}: {size.what}", size.bytes, size.bits_per_pixel, metrics))
    return found + [
        Row(f"{each.name}, quality {each.quality}", each.bytes, 8 * each.bytes / pixels, each.metrics)
        for each in rivals
    ]


def as_html(rows: Sequence[Row], made: Sequence[Reconstruction], rivals: Sequence[Rival]) -> str:
    """The table with its footnotes."""
    columns = ("", "Bytes", "Bits per pixel", *(name for name, _ in _METRICS.values()))
    cells = [
        (row.what, f"{row.bytes:,}", f"{row.bits_per_pixel:.3g}", *(_shown(name, row.metrics) for name in _METRICS))
        for row in rows
    ]
    return markup.table("Size and fidelity", columns, cells, notes=_footnotes(made, rivals))


def as_csv(rows: Sequence[Row]) -> bytes:
    """The table in full precision, UTF-8."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["form", "bytes", "bits_per_pixel", "psnr_db", "ssim", "lpips"])
    for row in rows:
        metrics = [row.metrics.get(name) for name in _METRICS]
        writer.writerow(
            [row.what, row.bytes, row.bits_per_pixel, *("" if value is None else value for value in metrics)]
        )
    return stream.getvalue().encode()


def headline(first: Reconstruction) -> list[tuple[str, str, str]]:
    """Name, value and meaning of what is looked at first."""
    smallest = min(first.sizes[1:], key=lambda size: size.bytes)
    figures = [(name, _shown(name, first.metrics), _MEANING[name]) for name in _METRICS if _known(name, first)]
    weight = ("Bits per pixel", f"{smallest.bits_per_pixel:.3g}", f"as {smallest.what}, {smallest.bytes:,} bytes")
    return [*figures, weight]


def pictures(made: Sequence[Reconstruction], rivals: Sequence[Rival]) -> list[tuple[Pixels, str]]:
    """The original, what each model makes of it, and the rivals, with captions."""
    first = made[0]
    return [
        (first.original, "Original"),
        *((each.reconstructed, f"{each.model}{_level(each.metrics)}") for each in made),
        *((rival.image, f"{rival.name}{_level(rival.metrics)}") for rival in rivals),
    ]


def told(made: Sequence[Reconstruction]) -> str:
    """How the work went, in a sentence a model, and how the image was read."""
    read = dict.fromkeys(remark for each in made for remark in each.encoded.remarks)
    return " ".join([*(_how(each) for each in made), *(f"The image {remark}." for remark in read)])


def _how(each: Reconstruction) -> str:
    height, width = each.original.shape[:2]
    tiles = ""
    if each.decoding.tiles > 1:
        seam = f", which agree to {each.seam_db:.1f} dB where they overlap" if each.seam_db is not None else ""
        tiles = f" in {each.decoding.tiles} tiles, an approximation{seam}"
    return f"{each.model}: {width}{_TIMES}{height} pixels there and back{tiles}, in {each.seconds:.2f} s."


def _footnotes(made: Sequence[Reconstruction], rivals: Sequence[Rival]) -> list[str]:
    notes = list(dict.fromkeys(f"{name}: {reason}." for each in made for name, reason in each.notes.items()))
    over = " and ".join(rival.name for rival in rivals if not rival.reached)
    if rivals:
        rule = "JPEG and WebP have the highest quality that takes no more bytes than the smallest latents"
        notes.append(f"{rule}; even the lowest quality of {over} takes more." if over else f"{rule}.")
    if any(len(each.sizes) > 2 for each in made):
        notes.append("PSNR, SSIM and LPIPS are of latents in float32.")
    return notes


def _known(name: str, first: Reconstruction) -> bool:
    return first.metrics.get(name) is not None


def _shown(name: str, metrics: dict[str, float | None]) -> str:
    value = metrics.get(name)
    return _NONE if value is None else f"{value:.{_METRICS[name][1]}f}"


def _level(metrics: dict[str, float | None]) -> str:
    value = metrics.get("PSNR")
    return "" if value is None else f" \N{MIDDLE DOT} {value:.1f} dB"
