"""`latent-ae evaluate`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.messages import say
from latent_ae.cli.options import add_command
from latent_ae.errors import UserError

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands


def add_commands(commands: "Commands") -> None:
    """Add `evaluate`."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        summary="measure a model on held-out images",
        more="Settings of a run's `data` and `evaluation` sections follow as --data.FIELD VALUE and "
        "--evaluation.FIELD VALUE; --settings lists them.",
        example="runs/kl-digits/model --data.source digits --json report.json",
    )
    parser.set_defaults(rest=[])
    parser.add_argument("model", metavar="MODEL", help="a model directory or a hub id")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there")
    parser.add_argument("--sample", action="store_true", help="decode a draw from the posterior instead of its mode")
    parser.add_argument("--part", choices=("heldout", "train"), default="heldout", help="part of the data to measure")
    parser.add_argument("--settings", action="store_true", help="list the data and evaluation settings and exit")


def _evaluate(arguments: argparse.Namespace) -> int:
    from latent_ae.command_line import override, print_help, split_options  # noqa: PLC0415
    from latent_ae.measure import TRAINING_ONLY, MeasureConfig, measure  # noqa: PLC0415  # torch and diffusers take seconds to import

    if arguments.settings:
        print_help(MeasureConfig(), "latent-ae evaluate MODEL", "Which images are measured, and how.")
    options = split_options(arguments.rest)
    if "data.source" not in options:
        raise UserError("which images? Give --data.source digits, photos, or folder, hub or stream (with --data.path)")
    if idle := [f"--{name}" for name in options if name.removeprefix("data.") in TRAINING_ONLY]:
        raise UserError(f"{', '.join(idle)} cuts training images and has no effect on what is measured: leave it out")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise UserError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    config = override(MeasureConfig, {}, options)
    report = measure(arguments.model, config, part=arguments.part, mode="sample" if arguments.sample else "mode")
    say(report.summary())
    if arguments.json is not None:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    return 0


def split_settings(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings among them (--data.FIELD VALUE ...) with their values."""
    words: list[str] = []
    settings: list[str] = []
    into = words
    for word in argv:
        if word.startswith("-"):
            into = settings if word.startswith(("--data.", "--evaluation.")) else words
        into.append(word)
    return words, settings
