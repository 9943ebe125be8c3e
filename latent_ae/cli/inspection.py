"""`latent-ae inspect`: needs neither a model nor torch."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.messages import complain, say
from latent_ae.cli.options import add_command, add_json
from latent_ae.io.latent_file.header import SUFFIXES, describe
from latent_ae.io.latent_file.metadata import Compute, LatentFileError
from latent_ae.io.paths import find_files

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands

COLUMNS = ("file", "kind", "images", "size", "grid", "dtype", "bits/pixel", "computed in", "encoder", "model")


def add_commands(commands: "Commands") -> None:
    """Add `inspect`."""
    parser = add_command(
        commands,
        "inspect",
        _inspect,
        summary="what is in latent files",
        more="From their headers alone: no model is needed, and the values are not read. A folder stands for all that "
        "is in it. Exit status 1 if something is not a latent file.",
        example="latents/photo.safetensors",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="a latent file, or a folder of them")
    add_json(parser, "everything, a list with one object per file,")


def _inspect(arguments: argparse.Namespace) -> int:
    told: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    for source in find_files(arguments.files, SUFFIXES).sources:
        try:
            told.append({"file": str(source.path), **describe(source.path)})
        except LatentFileError as error:
            failed.append({"file": str(source.path), "error": str(error)})
        except OSError as error:
            failed.append({"file": str(source.path), "error": error.strerror or str(error)})
    if len(told) == 1:
        _say_all(told[0])
    elif told:
        _say_table([COLUMNS, *map(_row, told)])
    for each in failed:
        complain(f"{each['file']}: {each['error']}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(told + failed, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _say_all(told: dict[str, object]) -> None:
    width = max(map(len, told))
    for name, value in {**told, "compute": _compute(told)}.items():
        shown = value if isinstance(value, str) else "-" if value is None else json.dumps(value)
        say(f"{name:{width}}  {shown}")


def _row(told: dict[str, object]) -> tuple[str, ...]:
    grid = told["grid"]
    assert isinstance(grid, list)
    return (
        str(told["file"]),
        str(told["kind"]),
        str(told["images"]),
        f"{told['height']}x{told['width']}",
        "x".join(str(side) for side in (told["channels"], *grid) if side is not None),
        str(told["dtype"]),
        f"{told['bits_per_pixel']:.3g}",
        _compute(told),
        str(told["encoder"])[:16],
        str(told["model"]),
    )


def _compute(told: dict[str, object]) -> str:
    """How the encoder ran; files of older versions do not say."""
    compute = told["compute"]
    return str(Compute(**compute)) if isinstance(compute, dict) else "unknown"


def _say_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
