"""Options that several commands have."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

from latent_ae.cli.output import complain, remark
from latent_ae.errors import ModelError, UserError
from latent_ae.io.model_place import drawing_pipeline, find_model, pipeline_note
from latent_ae.io.paths import near_names
from latent_ae.shipped import DEFAULT, shipped_models

if TYPE_CHECKING:
    from latent_ae.inference import Codec, SideChoice
    from latent_ae.inference.precision import Precision

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

PRECISIONS = ("auto", "exact", "fp32", "bf16", "fp16")
"""`latent_ae.inference.precision.PRECISIONS`, which imports torch"""
DTYPES = ("float32", "float16", "bfloat16")
"""types of stored numbers"""
MODEL_HELP = f"a model directory, a run directory, a single file, a hub id, or {' or '.join(shipped_models())}"
RENAMED = {
    **{
        f"{command} --compute": "--precision"
        for command in ("encode", "decode", "reconstruct", "interpolate", "sample")
    },
    "likelihood --samples": "--importance-samples",
    "verify --samples": "--count",
    "convert-dataset --draw": "--posterior",
}
"""earlier names of options, which are refused with the present one"""


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        """Print it and exit with status 2."""
        complain(f"{message}; see {self.prog} --help")
        raise SystemExit(2)


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], *, summary: str, more: str, example: str
) -> argparse.ArgumentParser:
    """Add a command whose help ends in an example."""
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}", allow_abbrev=False
    )
    parser.epilog = f"example: {parser.prog} {example}"
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """--json FILE; `main` checks that its folder exists before the command runs."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"also write {what} to this file")


def add_model(parser: argparse.ArgumentParser, *, default: str | None = DEFAULT, otherwise: str = DEFAULT) -> None:
    """--model, --precision and --tile; `otherwise` says what is taken where no model is given, '' requires one."""
    more = f" (default: {otherwise})" if otherwise else ""
    parser.add_argument("--model", default=default, required=not otherwise, metavar="MODEL", help=f"{MODEL_HELP}{more}")
    add_arithmetic(parser)


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """--precision and --tile."""
    parser.add_argument(
        "--precision",
        type=precision,
        metavar="{" + ",".join(PRECISIONS) + "}",
        help="arithmetic. auto: bf16 where the processor is fast in it and the error is small, else fp32. exact: fp32 "
        "with every image computed alone, so that its result does not depend on the others; one that does not fit into "
        "memory is computed in strips, in fp32, and says so (default: fp32 to encode, auto to decode)",
    )
    parser.add_argument(
        "--tile",
        type=tile_side,
        metavar="N|off",
        help="process images larger than N pixels a side in overlapping tiles of N pixels. Tiles need less memory and "
        "are an approximation: a model sees the whole image otherwise (default: off, images are processed whole, large "
        "ones in strips of rows with the same result)",
    )


def load_codec(arguments: argparse.Namespace, *, name: str | None = None) -> "Codec":
    """Load the model that the options of `add_model` name, on the GPU if there is one.

    Raises ModelError, and UserError for a precision that the device cannot compute and for tiles that are too small.
    """
    from latent_ae.inference import Codec, best_device

    precision = cast("Precision | None", arguments.precision)
    return Codec.load(name or arguments.model, device=best_device(), precision=precision, tile=arguments.tile)


def check_inputs(arguments: argparse.Namespace) -> None:
    """Refuse files that are not there before anything is imported for them.

    Of many, those that are missing are listed at the end, unless all are. Raises UserError.
    """
    for name in ("images", "latents"):
        given = getattr(arguments, name, [])
        if given and not any(map(Path.exists, given)):
            raise UserError(missing(given[0]))
    for name in ("a", "b", "folder", "file", "add", "from_", "to_"):
        if (path := getattr(arguments, name, None)) is not None and not path.exists():
            raise UserError(missing(path))


def missing(path: Path) -> str:
    """What to say of a path where nothing is."""
    near = near_names(path)
    return f"{path} does not exist" + (f"; did you mean {' or '.join(near)}?" if near else f" (from {Path.cwd()})")


def check_models(arguments: argparse.Namespace) -> None:
    """`check_model` of each model that a command line names, before anything is imported for it. Raises ModelError."""
    given = getattr(arguments, "models", [getattr(arguments, "model", None)])
    for name in [] if getattr(arguments, "settings", False) else given:
        if name is not None and not (hasattr(arguments, "draws") and drawing_pipeline(name) is not None):
            check_model(name)


def check_model(name: str) -> None:
    """Refuse a model that is not there, and say where one lies in a pipeline. Raises ModelError."""
    if Path(name).is_file() and Path(name).suffix.lower() in _suffixes_of_pictures():
        raise ModelError(f"{name} is a picture, expected a model: give --model {MODEL_HELP}")
    find_model(name)
    if (note := pipeline_note(name)) is not None:
        remark(note)


def _suffixes_of_pictures() -> frozenset[str]:
    from latent_ae.io.image_file.opening import SUFFIXES  # with readers of images

    return SUFFIXES


def say_how(codec: "Codec", *sides: "SideChoice") -> None:
    """Print the arithmetic of the sides that are used, and whether images are tiled."""
    tiles = "images whole" if codec.tile is None else f"images above {codec.tile} pixels a side in tiles"
    remark("; ".join([*map(str, sides), tiles]))


def add_out_folder(parser: argparse.ArgumentParser, what: str) -> None:
    """--out of a command that writes many files."""
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="DIR", help=f"folder for the {what}; created if missing"
    )


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _at_least(0, text)


def tile_side(text: str) -> int | None:
    """The side of tiles in pixels, None for `off`; for argparse."""
    if text == "off":
        return None
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of pixels or off") from None


def precision(text: str) -> str:
    """One of PRECISIONS, for argparse."""
    if text not in PRECISIONS:
        hint = "; the type of stored numbers is --dtype" if text in DTYPES else ""
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {', '.join(PRECISIONS)}{hint}")
    return text


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least {least}")
    return number
