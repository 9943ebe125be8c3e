"""Options that several commands have."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from latent_ae.cli.messages import remark

if TYPE_CHECKING:
    from latent_ae.inference import Codec, SideChoice
    from latent_ae.inference.precision import Precision

    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

COMPUTE = ("auto", "exact", "fp32", "bf16", "fp16")
"""`latent_ae.inference.precision.PRECISIONS`, which takes torch to import"""


MODEL_HELP = "a model or run directory, a single file or a hub id"


def add_command(
    commands: "Commands", name: str, run: Callable[[argparse.Namespace], int], *, summary: str, more: str, example: str
) -> argparse.ArgumentParser:
    """A command whose help ends in an example."""
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}", allow_abbrev=False
    )
    parser.epilog = f"example: {parser.prog} {example}"
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """--json FILE; `main` checks that its folder exists before the command runs."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write {what} to this file")


def add_model(parser: argparse.ArgumentParser, *, required: bool = True, more: str = "") -> None:
    """--model, --compute and --tile."""
    parser.add_argument("--model", required=required, metavar="MODEL", help=f"{MODEL_HELP}{more}")
    parser.add_argument(
        "--compute",
        choices=COMPUTE,
        help="arithmetic: auto takes bf16 where the processor is fast in it and the error is small, else fp32; exact "
        "gives the same bits whatever an image is computed together with (default: fp32 to encode, auto to decode)",
    )
    parser.add_argument(
        "--tile",
        type=tile_side,
        metavar="N|off",
        help="code images larger than N pixels a side in overlapping tiles of N, for which less memory is needed: an "
        "approximation, because a model looks at the whole image (default: off, an image that does not fit is refused)",
    )


def load_codec(arguments: argparse.Namespace, *, name: str | None = None) -> "Codec":
    """The model of `add_model`'s options made ready, on the GPU if there is one.

    Raises ModelError, and UserError for a precision the device cannot compute and tiles that are too small.
    """
    from latent_ae.inference import Codec, best_device  # noqa: PLC0415  # torch takes seconds

    precision = cast("Precision | None", arguments.compute)
    return Codec.load(name or arguments.model, device=best_device(), precision=precision, tile=arguments.tile)


def say_how(codec: "Codec", *sides: "SideChoice") -> None:
    """What the sides that are used run in, and whether images go through whole."""
    tiles = "images whole" if codec.tile is None else f"images above {codec.tile} pixels a side in tiles"
    remark("; ".join([*map(str, sides), tiles]))


def add_out_folder(parser: argparse.ArgumentParser, what: str) -> None:
    """--out of a command that makes many files."""
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="DIR", help=f"folder for the {what}; made if it is not there"
    )


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _at_least(1, text)


def tile_side(text: str) -> int | None:
    """The side of tiles in pixels, None for `off`; for argparse."""
    if text == "off":
        return None
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of pixels or off") from None


def not_negative(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least {least}")
    return number
