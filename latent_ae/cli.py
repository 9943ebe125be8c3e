"""`latent-ae ...`: argument parsing only."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from latent_ae._version import __version__
from latent_ae.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0 for complete success, 1 if a part failed, 2 for a user's error."""
    parser = argparse.ArgumentParser(prog="latent-ae", description="Measure and use image autoencoders.")
    parser.add_argument("--version", action="version", version=f"latent-ae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_evaluate(commands)
    _add_reconstruct(commands)
    words, rest = _without_settings(sys.argv[1:] if argv is None else argv)
    arguments, unknown = parser.parse_known_args(words)
    command: Callable[[argparse.Namespace, list[str]], int] = arguments.run
    try:
        if unknown:
            raise UserError(f"unknown option {unknown[0]}; see latent-ae {arguments.command} --help")
        return command(arguments, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or 'while writing'}", file=sys.stderr)
        return 1


def _without_settings(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings among them (--data.FIELD VALUE ...) with their values."""
    words: list[str] = []
    settings: list[str] = []
    into = words
    for word in argv:
        if word.startswith("-"):
            into = settings if word.startswith(("--data.", "--evaluation.")) else words
        into.append(word)
    return words, settings


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on held-out images",
        description="Measure a model on held-out images. Settings of a run's `data` and `evaluation` sections follow "
        "as --data.FIELD VALUE and --evaluation.FIELD VALUE; --settings lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a model directory or a hub id")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there")
    parser.add_argument("--sample", action="store_true", help="decode a draw from the posterior instead of its mode")
    parser.add_argument("--part", choices=("heldout", "train"), default="heldout", help="part of the data to measure")
    parser.add_argument("--settings", action="store_true", help="list the data and evaluation settings and exit")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace, rest: list[str]) -> int:
    from latent_ae.command_line import override, print_help, split_options  # noqa: PLC0415
    from latent_ae.measure import TRAINING_ONLY, MeasureConfig, measure  # noqa: PLC0415  # torch and diffusers take seconds to import

    if arguments.settings:
        print_help(MeasureConfig(), "latent-ae evaluate MODEL", "Which images are measured, and how.")
    options = split_options(rest)
    if "data.source" not in options:
        raise UserError("which images? Give --data.source digits, photos, or folder, hub or stream (with --data.path)")
    if idle := [f"--{name}" for name in options if name.removeprefix("data.") in TRAINING_ONLY]:
        raise UserError(f"{', '.join(idle)} cuts training images and has no effect on what is measured: leave it out")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise UserError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    config = override(MeasureConfig, {}, options)
    report = measure(arguments.model, config, part=arguments.part, mode="sample" if arguments.sample else "mode")
    print(report.summary())
    if arguments.json is not None:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    return 0


def _add_reconstruct(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "reconstruct",
        help="images of any size and mode to their reconstructions",
        description="Write each image's reconstruction as a PNG of exactly its size.",
        allow_abbrev=False,
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory or a hub id")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help="folder for the PNGs")
    parser.set_defaults(run=_reconstruct)


def _reconstruct(arguments: argparse.Namespace, rest: list[str]) -> int:
    from latent_ae.codec import output_names, reconstruct_file  # noqa: PLC0415
    from latent_ae.image import BrokenImage  # noqa: PLC0415
    from latent_ae.models import load_autoencoder  # noqa: PLC0415

    if rest:
        raise UserError(f"unknown option {rest[0]}: reconstruct has no settings; see latent-ae reconstruct --help")
    outputs = [arguments.out / name for name in output_names(arguments.images)]
    images = {image.resolve() for image in arguments.images}
    if own := [file for file in outputs if file.resolve() in images]:
        raise UserError(f"{own[0]} is one of the images and would be overwritten: give another --out")
    model = load_autoencoder(arguments.model).eval()
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for image, out in tqdm(list(zip(arguments.images, outputs, strict=True)), unit="image"):
        try:
            reconstruct_file(model, image, out)
        except (BrokenImage, OSError) as error:
            failed.append(f"{image}: {error}")
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
