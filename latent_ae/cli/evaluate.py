"""`latent-ae evaluate` and `likelihood`."""

import argparse
from typing import TYPE_CHECKING, Literal

from latent_ae.cli.before_torch import check_names, check_paths
from latent_ae.cli.options import MODEL_HELP, Commands, add_command, add_json, positive
from latent_ae.cli.output import remark, say, write_json
from latent_ae.config.command_line import split_options
from latent_ae.config.implied import source_of
from latent_ae.config.listing import settings_of_program
from latent_ae.config.program_help import described
from latent_ae.errors import UserError

if TYPE_CHECKING:
    from latent_ae.data import SourceParts
    from latent_ae.evaluation.images import MeasureConfig, Part
    from latent_ae.evaluation.report import EvaluationReport, LikelihoodReport
    from latent_ae.inference import Codec

SETTINGS = (
    "The images and measurements are chosen by the settings `data` and `evaluation` of a run, given as --data.FIELD "
    "VALUE and --evaluation.FIELD VALUE; --settings lists them. --data.path PATH alone is a folder, a file list, a "
    "table or tar of images, or one image; without any, the images are those of the model's run."
)


def add_commands(commands: Commands) -> None:
    """Add both."""
    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        summary="measure models on images",
        more=SETTINGS,
        example="runs/kl-photos runs/vq-photos --data.path ~/pictures --json report.json",
    )
    evaluate.add_argument("models", metavar="MODEL", nargs="+", help=f"{MODEL_HELP}; several are shown in one table")
    evaluate.add_argument(
        "--part",
        choices=("heldout", "train", "test", "all"),
        help="part of the data to measure (default: heldout of images that a model was trained on, all of others)",
    )
    _add_common(evaluate)
    evaluate.add_argument("--sample", action="store_true", help="decode a sample of the posterior instead of its mode")
    likelihood = add_command(
        commands,
        "likelihood",
        _likelihood,
        summary="bound the likelihood of held-out images under a KL autoencoder",
        more="The ELBO and the importance-weighted bounds of 8-bit images, in nats and bits per dimension. " + SETTINGS,
        example="runs/kl-digits/model --data.source digits --json likelihood.json",
    )
    likelihood.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    likelihood.add_argument(
        "--part", choices=("heldout", "train"), default="heldout", help="part of the data to measure (default: heldout)"
    )
    _add_common(likelihood)
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


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every command has that measures models on images."""
    parser.set_defaults(rest=[])
    add_json(parser, "the whole report")
    parser.add_argument("--settings", action="store_true", help="list the data and evaluation settings and exit")


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.settings:
        return _list_settings(arguments)
    names: list[str] = arguments.models
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{repeated[0]} is given twice: give every model once")
    config, part = _settings(arguments, names)

    from latent_ae.evaluation.report import comparison
    from latent_ae.evaluation.run import measure
    from latent_ae.models.naming import model_name

    if arguments.part is None:
        remark(f"part of the images: {part}; --part chooses another")
    mode: Literal["sample", "mode"] = "sample" if arguments.sample else "mode"
    reports = measure(names, config, part=arguments.part or part, mode=mode)
    if len(reports) == 1:
        return _say(reports[names[0]], arguments)
    short = [model_name(name) for name in names]
    say(comparison(dict(zip(names if len(set(short)) < len(names) else short, reports.values(), strict=True))))
    write_json(arguments.json, {"models": {name: report.model_dump(mode="json") for name, report in reports.items()}})
    return 0


def _likelihood(arguments: argparse.Namespace) -> int:
    if arguments.settings:
        return _list_settings(arguments)
    from latent_ae.evaluation.run import NOT_OF_LIKELIHOOD, measure_likelihood

    config, _ = _settings(arguments, [arguments.model], idle=NOT_OF_LIKELIHOOD)
    report = measure_likelihood(
        arguments.model,
        config,
        part=arguments.part,
        samples=arguments.importance_samples,
        std=arguments.std,
        prior_name=arguments.prior,
    )
    return _say(report, arguments)


def check_settings(arguments: argparse.Namespace) -> None:
    """Refuse settings of the images and measurements that there are not, before torch is imported. Raises UserError."""
    if (words := getattr(arguments, "rest", None)) and hasattr(arguments, "settings"):
        options = split_options(words)
        path = options.get("data.path")
        source = options.get("data.source", None if path is None else source_of(path))
        check_names(options, settings_of_program("evaluate"), ("data.source",))
        check_paths(options, {"data.source": source})


def _list_settings(arguments: argparse.Namespace) -> int:
    """Print the settings of the images and measurements, those of --data.source if it is given."""
    given = split_options(arguments.rest)
    source = given.get("data.source", "folder")
    settings = [each for each in settings_of_program("evaluate") if each.is_of({"data.source": source})]
    say("\n".join(described(settings, given)))
    return 0


def _settings(
    arguments: argparse.Namespace, model_names: list[str], idle: tuple[str, ...] = ()
) -> "tuple[MeasureConfig, Part]":
    """The settings on the command line, and the part to measure where none is given.

    `idle` are the fields of `evaluation` without effect on the command.
    """
    from latent_ae.evaluation.images import measure_config

    options = split_options(arguments.rest)
    if unused := [f"--{name}" for name in options if name.removeprefix("evaluation.") in idle]:
        raise UserError(f"{', '.join(unused)} has no effect on {arguments.command}: leave it out")
    return measure_config(options, model_names)


def open_data(arguments: argparse.Namespace, codec: "Codec") -> "SourceParts":
    """The data that --data.FIELD chooses (default: that of the model's run), read as the model does.

    Raises UserError.
    """
    from latent_ae.data.values import read_as
    from latent_ae.evaluation.images import measure_config, open_parts

    options = split_options(arguments.rest)
    if idle := [name for name in options if not name.startswith("data.")]:
        raise UserError(f"--{idle[0]} has no effect on {arguments.command}: leave it out")
    config, _ = measure_config(options, [arguments.model])
    return open_parts(read_as(codec.pixel_format, config.data, codec.name))


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
