"""`latent-ae serve`: serve models to browsers and programs."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from latent_ae.app.options import ServerOptions
from latent_ae.app.perimeter.accounts import read_accounts
from latent_ae.app.serve import serve
from latent_ae.cli.options import MODEL_HELP, OneLineParser, add_arithmetic, check_model
from latent_ae.cli.output import complain
from latent_ae.errors import UserError
from latent_ae.service.limits import ServiceLimits
from latent_ae.shipped import shipped_models
from latent_ae.training.finished import damage_of_result

_RUNS = Path("runs")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after these, 2 for a user's error."""
    given = vars(parser().parse_args(argv))
    options, limits = (
        {field.name: given[field.name] for field in fields(kind) if field.name in given}
        for kind in (ServerOptions, ServiceLimits)
    )
    try:
        accounts = None if given["auth_file"] is None else read_accounts(given["auth_file"])
        models = given["model"]
        if models is None:
            models = default_models(_RUNS)
        for name in models:
            check_model(name)
        serve(
            models,
            options=ServerOptions(**options, auth=accounts),
            limits=ServiceLimits(**limits),
            priors=given["prior"],
            device=given["device"],
            precision=given["precision"],
            tile=given["tile"],
        )
    except UserError as error:
        complain(str(error))
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = OneLineParser(
        prog="latent-ae serve", description="Serve image autoencoders to browsers and programs.", allow_abbrev=False
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help=f"{MODEL_HELP}; repeatable (default: the newest finished run in {_RUNS}/, if there is one, "
        f"then {', '.join(shipped_models())})",
    )
    parser.add_argument(
        "--prior",
        action="append",
        default=[],
        metavar="DIR",
        help="a trained prior of a served model's latents; repeatable",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="device of the models, like cuda:1 or cpu (default: an accelerator if any)"
    )
    add_arithmetic(parser)
    parser.add_argument("--auth-file", type=Path, metavar="FILE", help="file of lines user:password, of mode 0600")
    _add_fields(parser, ServerOptions)
    _add_fields(parser.add_argument_group("limits"), ServiceLimits)
    return parser


def _add_fields(parser: argparse._ActionsContainer, kind: type[ServerOptions] | type[ServiceLimits]) -> None:
    """Add an option for each field that was made by `option`; those not given are left to the class's defaults."""
    for each in fields(kind):
        how = dict(each.metadata)
        if list(how) == ["help"]:
            how |= {"type": _positive(float if each.name.endswith("seconds") else int), "metavar": "N"}
            how["help"] += f" (default: {each.default:,})" if each.default else ""
        if how:
            parser.add_argument(f"--{each.name.replace('_', '-')}", default=argparse.SUPPRESS, **how)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> int | float:
        if not (value := kind(text)) > 0:
            raise ValueError
        return value

    number.__name__ = "positive number"  # argparse names the type in its message
    return number


def default_models(runs: Path) -> list[str]:
    """What is served if nothing is asked for: the newest finished run in `runs`, and the models of the package."""
    newest = newest_model(runs)
    return [*([] if newest is None else [str(newest)]), *shipped_models()]


def newest_model(runs: Path) -> Path | None:
    """The directory `model` of the run in `runs` that finished last, None if none did.

    Runs whose model is damaged or incomplete are skipped.
    """
    configs = [config for config in runs.glob("*/model/config.json") if config.is_file()]
    newest_first = sorted(configs, key=lambda config: config.stat().st_mtime, reverse=True)
    models = (config.parent for config in newest_first)
    return next((model for model in models if damage_of_result(model, "config.json") is None), None)
