"""`latent-ae evaluate` and `likelihood`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.messages import say
from latent_ae.cli.options import add_command, add_json
from latent_ae.errors import UserError

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands
    from latent_ae.evaluation.report import EvaluationReport, LikelihoodReport
    from latent_ae.evaluation.run import MeasureConfig


def add_commands(commands: "Commands") -> None:
    """Add both."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        summary="measure a model on held-out images",
        more="Settings of a run's `data` and `evaluation` sections follow as --data.FIELD VALUE and "
        "--evaluation.FIELD VALUE; --settings lists them.",
        example="runs/kl-digits/model --data.source digits --json report.json",
    )
    _add_images(parser)
    parser.add_argument("--sample", action="store_true", help="decode a draw from the posterior instead of its mode")
    parser = add_command(
        commands,
        "likelihood",
        _likelihood,
        summary="bound the likelihood of held-out images under a KL autoencoder",
        more="The ELBO and the importance-weighted bounds of 8-bit images, in nats and bits per dimension. Settings of "
        "a run's `data` and `evaluation` sections follow as --data.FIELD VALUE and --evaluation.FIELD VALUE.",
        example="runs/kl-digits/model --data.source digits --json likelihood.json",
    )
    _add_images(parser)
    parser.add_argument(
        "--samples", type=int, default=64, metavar="K", help="draws from the posterior of an image (default: 64)"
    )
    parser.add_argument(
        "--std",
        type=float,
        metavar="S",
        help="standard deviation around the decoder's output, in units of [-1, 1] pixels (default: fitted to images of "
        "the training part)",
    )
    parser.add_argument(
        "--prior",
        metavar="DIR",
        help="a prior of the model's latents that train/train_hierarchy.py made (default: N(0, I))",
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    """What every command has that measures a model on images."""
    parser.set_defaults(rest=[])
    parser.add_argument("model", metavar="MODEL", help="a model or run directory, a single file or a hub id")
    add_json(parser, "the whole report")
    parser.add_argument("--part", choices=("heldout", "train"), default="heldout", help="part of the data to measure")
    parser.add_argument("--settings", action="store_true", help="list the data and evaluation settings and exit")


def _evaluate(arguments: argparse.Namespace) -> int:
    from latent_ae.evaluation.run import measure  # noqa: PLC0415  # torch and diffusers take seconds to import

    config = _settings(arguments)
    report = measure(arguments.model, config, part=arguments.part, mode="sample" if arguments.sample else "mode")
    return _tell(report, arguments.json)


def _likelihood(arguments: argparse.Namespace) -> int:
    from latent_ae.evaluation.run import NOT_OF_LIKELIHOOD, measure_likelihood  # noqa: PLC0415  # torch and diffusers take seconds to import

    config = _settings(arguments, idle=NOT_OF_LIKELIHOOD)
    report = measure_likelihood(
        arguments.model,
        config,
        part=arguments.part,
        samples=arguments.samples,
        std=arguments.std,
        prior_name=arguments.prior,
    )
    return _tell(report, arguments.json)


def _settings(arguments: argparse.Namespace, idle: tuple[str, ...] = ()) -> "MeasureConfig":
    """The settings on the command line; `idle` are the fields of `evaluation` that the command has no use for."""
    from latent_ae.config.command_line import override, print_help, split_options  # noqa: PLC0415
    from latent_ae.evaluation.run import TRAINING_ONLY, MeasureConfig  # noqa: PLC0415  # torch and diffusers take seconds to import

    if arguments.settings:
        print_help(MeasureConfig(), f"latent-ae {arguments.command} MODEL", "Which images are measured, and how.")
    options = split_options(arguments.rest)
    if "data.source" not in options:
        raise UserError("which images? Give --data.source digits, photos, or folder, hub or stream (with --data.path)")
    if cut := [f"--{name}" for name in options if name.removeprefix("data.") in TRAINING_ONLY]:
        raise UserError(f"{', '.join(cut)} cuts training images and has no effect on what is measured: leave it out")
    if unused := [f"--{name}" for name in options if name.removeprefix("evaluation.") in idle]:
        raise UserError(f"{', '.join(unused)} has no effect on a {arguments.command}: leave it out")
    return override(MeasureConfig, {}, options)


def _tell(report: "EvaluationReport | LikelihoodReport", file: Path | None) -> int:
    say(report.summary())
    if file is not None:
        file.write_text(report.to_json(), encoding="utf-8")
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
