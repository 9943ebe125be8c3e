"""`latent-ae inspect`: needs neither a model nor torch."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from latent_ae.cli.options import Commands, add_command, add_json
from latent_ae.cli.output import complain, say, write_json
from latent_ae.io.latent_file.header import SUFFIXES, describe
from latent_ae.io.latent_file.metadata import Compute, LatentFileError
from latent_ae.io.paths import find_files

COLUMNS = ("file", "kind", "images", "size", "grid", "dtype", "bits/pixel", "computed in", "encoder", "model")


def add_commands(commands: Commands) -> None:
    """Add `inspect`."""
    parser = add_command(
        commands,
        "inspect",
        _inspect,
        summary="show the contents of latent files",
        more="Only headers are read: no model is needed. A folder stands for all files below it. The exit status is 1 "
        "if a file is not a latent file.",
        example="latents/photo.safetensors",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="a latent file, or a folder of them")
    add_json(parser, "the contents, a list with one object per file,")


def _inspect(arguments: argparse.Namespace) -> int:
    described: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    for source in find_files(arguments.files, SUFFIXES).sources:
        try:
            described.append({"file": str(source.path), **describe(source.path)})
        except LatentFileError as error:
            failed.append({"file": str(source.path), "error": str(error)})
        except OSError as error:
            failed.append({"file": str(source.path), "error": error.strerror or str(error)})
    if len(described) == 1:
        _say_all(described[0])
    elif described:
        stated = any(each["pixel_format"] for each in described)
        columns = (*COLUMNS, "pixels") if stated else COLUMNS
        _say_table([columns, *((*_row(each), _pixels(each))[: len(columns)] for each in described)])
    for each in failed:
        complain(f"{each['file']}: {each['error']}")
    write_json(arguments.json, described + failed)
    return 1 if failed else 0


def _say_all(fields: dict[str, object]) -> None:
    width = max(map(len, fields))
    for name, value in {**fields, "compute": _compute(fields), "pixel_format": _pixels(fields)}.items():
        shown = value if isinstance(value, str) else "-" if value is None else json.dumps(value)
        say(f"{name:{width}}  {shown}")


def _row(fields: dict[str, object]) -> tuple[str, ...]:
    grid = fields["grid"]
    assert isinstance(grid, list)
    return (
        str(fields["file"]),
        str(fields["kind"]),
        str(fields["images"]),
        f"{fields['height']}x{fields['width']}",
        "x".join(str(side) for side in (fields["channels"], *grid) if side is not None),
        str(fields["dtype"]),
        f"{fields['bits_per_pixel']:.3g}",
        _compute(fields),
        str(fields["encoder"])[:16],
        str(fields["model"]),
    )


def _compute(fields: dict[str, object]) -> str:
    """The encoder's arithmetic; files of older versions do not have it."""
    compute = fields["compute"]
    return str(Compute(**compute)) if isinstance(compute, dict) else "unknown"


def _pixels(fields: dict[str, object]) -> str:
    """Channels, type, range and unit of the images; only those that are not grey or RGB pictures are stated."""
    stated = fields["pixel_format"]
    if not isinstance(stated, dict):
        return "grey or RGB pictures"
    words = [f"{stated['channels']} channels", stated["dtype"]]
    if stated["numbers"]:
        words.append("in " + " ".join(f"{low:g}..{high:g}" for low, high in stated["ranges"]) + f" {stated['unit']}")
    usual = {"gamma": 1.0, "bands": [], "alpha": "none", "rgb": []}
    words += [f"{name} {json.dumps(stated[name])}" for name, value in usual.items() if stated[name] != value]
    return ", ".join(word.strip() for word in words)


def _say_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
