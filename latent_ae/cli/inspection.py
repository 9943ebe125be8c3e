"""`latent-ae inspect`: what files and folders are. Needs neither a model nor torch."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from latent_ae.cli.options import Commands, add_command, add_json
from latent_ae.cli.output import complain, say, write_json
from latent_ae.errors import UserError
from latent_ae.io.latent_file.header import SUFFIX, SUFFIXES, describe
from latent_ae.io.latent_file.metadata import Compute, LatentFileError
from latent_ae.io.paths import find_files
from latent_ae.shipped import shipped_models

COLUMNS = ("file", "kind", "images", "size", "grid", "dtype", "bits/pixel", "computed in", "encoder", "model")


def add_commands(commands: Commands) -> None:
    """Add `inspect`."""
    parser = add_command(
        commands,
        "inspect",
        _inspect,
        summary="say what a file or folder is, and its facts",
        more="Knows runs, checkpoints, models, single files, exports, priors, pipelines, data sets of latents, latent "
        "files and pictures. Only headers are read: no model is loaded. Another folder stands for all latent "
        "files below it. The exit status is 1 if something is not known or damaged.",
        example="runs/kl-photos latents/photo.safetensors",
    )
    parser.add_argument("files", metavar="PATH", nargs="+", type=Path, help="a file or a folder")
    add_json(parser, "the contents, a list with one object per file,")


def _inspect(arguments: argparse.Namespace) -> int:
    described: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    others, rest = _products(arguments.files, failed)
    for source in find_files(rest, SUFFIXES).sources:
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
    for number, facts in enumerate(others):
        if number or described:
            say("")
        _say_facts(facts)
    for each in failed:
        complain(f"{each['file']}: {each['error']}")
    write_json(arguments.json, others + described + failed)
    return 1 if failed else 0


def _products(paths: Sequence[Path], failed: list[dict[str, object]]) -> tuple[list[dict[str, object]], list[Path]]:
    """The facts of what is no latent file, and the rest; what is damaged is added to `failed`."""
    from latent_ae.cli.products import product  # with readers of images

    found, rest = [], []
    for given in paths:
        path = given if given.exists() else shipped_models().get(str(given), given)
        try:
            if path.suffix in SUFFIXES and path.is_file() and _is_latent_file(path):
                rest.append(path)
            elif (facts := product(path)) is not None:
                found.append(facts)
            else:
                rest.append(path)
        except UserError as error:
            failed.append({"file": str(path), "error": str(error)})
    return found, rest


def _is_latent_file(path: Path) -> bool:
    """Whether it is one, or is damaged so that its own reader has to say how."""
    try:
        describe(path)
    except LatentFileError:
        return path.suffix != SUFFIX
    return True


def _say_facts(facts: dict[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {'-' if value is None else value}")


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
