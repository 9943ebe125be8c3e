"""`latent-ae evaluate` and `likelihood`."""

import argparse
from typing import TYPE_CHECKING

from latent_ae.cli.options import MODEL_HELP, Commands, add_command, add_json, positive
from latent_ae.cli.output import say, write_json
from latent_ae.errors import UserError

if TYPE_CHECKING:
    from latent_ae.evaluation.report import EvaluationReport, LikelihoodReport
    from latent_ae.evaluation.run import MeasureConfig

SETTINGS = (
    "The images and measurements are chosen by the settings `data` and `evaluation` of a run, given as --data.FIELD "
    "VALUE and --evaluation.FIELD VALUE; --settings lists them."
)


def add_commands(commands: Commands) -> None:
    """Add both."""
    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        summary="measure a model on held-out images",
        more=SETTINGS,
        example="runs/kl-digits/model --data.source digits --json report.json",
    )
    _add_images(evaluate)
    evaluate.add_argument("--sample", action="store_true", help="decode a sample of the posterior instead of its mode")
    likelihood = add_command(
        commands,
        "likelihood",
        _likelihood,
        summary="bound the likelihood of held-out images under a KL autoencoder",
        more="The ELBO and the importance-weighted bounds of 8-bit images, in nats and bits per dimension. " + SETTINGS,
        example="runs/kl-digits/model --data.source digits --json likelihood.json",
    )
    _add_images(likelihood)
    likelihood.add_argument(
        "--importance-samples",
        type=positive,
        default=64,
        metavar="K",
        help="number of samples of the posterior of each image (default: 64)",
    )
    likelihood.add_argument(
        "--std",
        type=float,
        metavar="S",
        help="standard deviation of the pixels, in [-1, 1], around the decoder's output (default: fitted to training "
        "images)",
    )
    likelihood.add_argument(
        "--prior",
        metavar="DIR",
        help="a prior over the model's latents, trained by train/train_prior.py (default: N(0, I))",
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add what every command has that measures a model on images."""
    parser.set_defaults(rest=[])
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_json(parser, "the whole report")
    parser.add_argument("--part", choices=("heldout", "train"), default="heldout", help="part of the data to measure")
    parser.add_argument("--settings", action="store_true", help="list the data and evaluation settings and exit")


def _evaluate(arguments: argparse.Namespace) -> int:
    from latent_ae.evaluation.run import measure

    config = _settings(arguments)
    report = measure(arguments.model, config, part=arguments.part, mode="sample" if arguments.sample else "mode")
    return _say(report, arguments)


def _likelihood(arguments: argparse.Namespace) -> int:
    from latent_ae.evaluation.run import NOT_OF_LIKELIHOOD, measure_likelihood

    config = _settings(arguments, idle=NOT_OF_LIKELIHOOD)
    report = measure_likelihood(
        arguments.model,
        config,
        part=arguments.part,
        samples=arguments.importance_samples,
        std=arguments.std,
        prior_name=arguments.prior,
    )
    return _say(report, arguments)


def _settings(arguments: argparse.Namespace, idle: tuple[str, ...] = ()) -> "MeasureConfig":
    """The settings on the command line; `idle` are the fields of `evaluation` without effect on the command."""
    from latent_ae.config.command_line import override, print_help, split_options
    from latent_ae.data import SOURCES
    from latent_ae.evaluation.run import MeasureConfig

    if arguments.settings:
        print_help(
            MeasureConfig(),
            f"latent-ae {arguments.command} MODEL",
            "The images that are measured, and the measurements.",
        )
    options = split_options(arguments.rest)
    if "data.source" not in options:
        raise UserError(f"--data.source is missing: give one of {', '.join(SOURCES)}")
    if unused := [f"--{name}" for name in options if name.removeprefix("evaluation.") in idle]:
        raise UserError(f"{', '.join(unused)} has no effect on {arguments.command}: leave it out")
    config = override(MeasureConfig, {}, options)
    if cut := config.data.given_for_training():
        raise UserError(f"{cut} only crops training images and has no effect here: leave it out")
    return config


def _say(report: "EvaluationReport | LikelihoodReport", arguments: argparse.Namespace) -> int:
    say(report.summary())
    write_json(arguments.json, report.to_json())
    return 0


def split_settings(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the words for argparse and the settings (--data.FIELD VALUE ...) with their values."""
    words: list[str] = []
    settings: list[str] = []
    into = words
    for word in argv:
        if word.startswith("-"):
            into = settings if word.startswith(("--data.", "--evaluation.")) else words
        into.append(word)
    return words, settings
