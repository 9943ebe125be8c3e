"""`latent-ae serve`: serve models to browsers and programs."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from latent_ae.app.options import ServerOptions
from latent_ae.app.perimeter.access import read_accounts
from latent_ae.app.serve import serve
from latent_ae.cli.options import PRECISIONS, tile_side
from latent_ae.cli.output import complain
from latent_ae.errors import UserError
from latent_ae.service.limits import TILE, ServiceLimits
from latent_ae.training.finished import damage_of_result

_RUNS = Path("runs")
_NO_RUN = (
    f"no finished run in {_RUNS}: give --model a model directory or a hub id, or train one in three minutes with\n"
    "  latent-ae train"
)
_STORAGE = {
    "keep_seconds": "time that uploads and results stay on disk",
    "stored_bytes": "maximum size of uploads and results on disk; above it the oldest are deleted, and requests that "
    "add to them are refused",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after these, 2 for a user's error."""
    arguments = parser().parse_args(argv)
    given = {field.name: getattr(arguments, field.name) for field in fields(ServerOptions) if field.name != "auth"}
    try:
        accounts = None if arguments.auth_file is None else read_accounts(arguments.auth_file)
        serve(
            arguments.model or [_newest()],
            options=ServerOptions(**given, auth=accounts),
            limits=ServiceLimits(**{field.name: getattr(arguments, field.name) for field in fields(ServiceLimits)}),
            priors=arguments.prior,
            device=arguments.device,
            precision=arguments.precision,
            tile=arguments.tile,
        )
    except UserError as error:
        complain(str(error))
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="latent-ae serve", description="Serve image autoencoders to browsers and programs.", allow_abbrev=False
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="a model or run directory, a single file or a hub id; repeatable. Default: the newest finished run in "
        "runs/",
    )
    parser.add_argument(
        "--prior",
        action="append",
        default=[],
        metavar="DIR",
        help="a trained prior of a served model's latents; repeatable",
    )
    parser.add_argument("--host", default=ServerOptions.host, help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=ServerOptions.port, help="port, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--auth-file", type=Path, metavar="FILE", help="file of lines user:password, of mode 0600")
    parser.add_argument(
        "--root-path",
        default="",
        metavar="PATH_OR_URL",
        help="where a proxy shows the server: /vae, or https://example.com/vae",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        dest="allow_hosts",
        metavar="NAME",
        help="another name of the server, like vae.example.com; repeatable. localhost, addresses and the name in "
        "--root-path are always allowed",
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        dest="trusted_proxies",
        metavar="ADDRESS",
        help="address or network of a proxy whose X-Forwarded-For and X-Forwarded-Proto are believed, so that limits "
        "apply to its visitors and not to the proxy; repeatable",
    )
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as tools to language models (MCP)")
    parser.add_argument(
        "--device", metavar="NAME", help="device of the models, like cuda:1 or cpu (default: an accelerator if any)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="arithmetic of the models (default: fp32 to encode, so that latents do not depend on the machine, and "
        "auto to decode)",
    )
    parser.add_argument(
        "--tile",
        type=tile_side,
        default=TILE,
        metavar="N|off",
        help="encode and decode images larger than N pixels a side in overlapping tiles of N, an approximation that "
        "needs less memory; replies and files report it (default: %(default)s)",
    )
    group = parser.add_argument_group("limits")
    limits = {field.name: field.metadata["help"] for field in fields(ServiceLimits)}
    for name, text in (_STORAGE | limits).items():
        default = getattr(ServerOptions if name in _STORAGE else ServiceLimits, name)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_positive(float if name.endswith("seconds") else int),
            default=default,
            metavar="N",
            help=f"{text} (default: {default:,})" if default else text,
        )
    return parser


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> int | float:
        if not (value := kind(text)) > 0:
            raise ValueError
        return value

    number.__name__ = "positive number"  # argparse names the type in its message
    return number


def _newest() -> str:
    """The model to serve if none is named. Raises UserError that says how to train one."""
    model = newest_model(_RUNS)
    if model is None:
        raise UserError(_NO_RUN)
    return str(model)


def newest_model(runs: Path) -> Path | None:
    """The directory `model` of the run in `runs` that finished last, None if none did.

    Runs whose model is damaged or incomplete are skipped.
    """
    configs = [config for config in runs.glob("*/model/config.json") if config.is_file()]
    newest_first = sorted(configs, key=lambda config: config.stat().st_mtime, reverse=True)
    models = (config.parent for config in newest_first)
    return next((model for model in models if damage_of_result(model, "config.json") is None), None)
