"""Serve models to browsers and programs: `latent-ae serve --help`."""

import argparse
import gc
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from latent_ae.app import gradio_settings, temporary
from latent_ae.app.perimeter.access import Accounts, read_accounts
from latent_ae.cli.options import tile_side
from latent_ae.errors import UserError
from latent_ae.inference.precision import PRECISIONS
from latent_ae.service.limits import TILE, ServiceLimits
from latent_ae.training.finished import damage_of_result

if TYPE_CHECKING:
    from latent_ae.service import Service
    from latent_ae.service.results import ModelInfo

_RUNS = Path("runs")
_HOW_TO_MAKE_ONE = (
    f"no finished run under {_RUNS}: give --model a model directory or a hub id, or train one in four minutes with\n"
    "  latent-ae train"
)
_EXTRA = ("gradio", "prometheus_client")
"""what only the extra `app` installs"""
_LIMITS = {
    "upload_bytes": "bytes of an uploaded file",
    "pixels": "pixels of an image",
    "side": "pixels along a side of an image",
    "queue": "requests inside the server; the next one is told that it is busy",
    "deadline_seconds": "from a request's arrival to its answer",
    "batch_pixels": "pixels that a model works on together",
    "samples": "images of one draw, one morph or one latent file; 4 or more",
    "memory_bytes": "that a request may need by prediction; what is free when it comes if not given",
}


_STORAGE = (
    ("--keep-seconds", 3600.0, "that uploads and results stay on disk"),
    (
        "--stored-bytes",
        2 * 10**9,
        "of uploads and results on disk; above it the oldest go, and what would add to them is refused",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status: 0 after these, 2 for a user's error."""
    arguments = _parser().parse_args(argv)
    signals = _Signals()
    try:
        auth = None if arguments.auth_file is None else read_accounts(arguments.auth_file)
        names = arguments.model or [_newest()]
        with temporary.private_folder() as folder:
            gradio_settings.set_environment(folder)
            _serve(arguments, names, auth, folder, signals)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except _Stopped:
        pass
    return 0


def _serve(
    arguments: argparse.Namespace, names: list[str], auth: Accounts | None, folder: Path, signals: "_Signals"
) -> None:
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise UserError(f"the app needs {' and '.join(missing)}: pip install 'latent-ae[app]'")
    # torch and gradio take seconds to import: what is wrong with the command line is said before.
    from latent_ae.app import log  # noqa: PLC0415
    from latent_ae.app.launch import launch, require_tools  # noqa: PLC0415
    from latent_ae.app.page import create_demo  # noqa: PLC0415
    from latent_ae.inference import device_named  # noqa: PLC0415
    from latent_ae.service import Service  # noqa: PLC0415

    if arguments.mcp:
        require_tools(accounts=auth is not None)
    limits = ServiceLimits(**{field.name: getattr(arguments, field.name) for field in fields(ServiceLimits)})
    device = device_named(arguments.device)
    priors = arguments.prior or []
    service = Service.load(
        names, limits=limits, device=device, precision=arguments.precision, tile=arguments.tile, priors=priors
    )
    log.set_logs()
    running = launch(
        create_demo(service, examples=_examples(service, folder)),
        service,
        host=arguments.host,
        port=arguments.port,
        auth=auth,
        root_path=arguments.root_path,
        allow_hosts=arguments.allow_host,
        trusted_proxies=arguments.trusted_proxy,
        mcp=arguments.mcp,
        keep_seconds=arguments.keep_seconds,
        stored_bytes=arguments.stored_bytes,
    )
    gc.collect()
    gc.freeze()  # what is there now stays: later collections look at what requests left alone
    for model in service.models():
        _say(_line(model))
    _say(f"serving on {running.url}")
    try:
        signals.wait()
    finally:
        running.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="latent-ae serve", description="Serve image autoencoders to browsers and programs."
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="DIR_OR_ID",
        help="a model or run directory, a single file or a hub id; may be given several times. The newest finished run "
        "under runs/ if not given",
    )
    parser.add_argument(
        "--prior",
        action="append",
        metavar="DIR",
        help="a prior of a model's latents that train/train_hierarchy.py made; may be given several times",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; %(default)s")
    parser.add_argument("--port", type=int, default=7860, help="0 for one that is free; %(default)s")
    parser.add_argument("--auth-file", type=Path, metavar="FILE", help="lines user:password; mode 0600")
    parser.add_argument(
        "--root-path", metavar="PATH_OR_URL", help="where a proxy shows the server: /vae, or https://example.com/vae"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which the server is reached, as vae.example.com; may be given several times. localhost, "
        "addresses and the name in --root-path need not be given",
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a proxy in front, whose X-Forwarded-For and X-Forwarded-Proto are believed: limits "
        "then count its visitors and not the proxy; may be given several times",
    )
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints to tools of language models too")
    parser.add_argument(
        "--device", metavar="NAME", help="of the models, as cuda:1 or cpu; the accelerator that is there if not given"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="arithmetic of the models; if not given, fp32 to encode, so that latents do not depend on the machine, "
        "and auto to decode",
    )
    parser.add_argument(
        "--tile",
        type=tile_side,
        default=TILE,
        metavar="N|off",
        help="code images larger than N pixels a side in overlapping tiles of N, an approximation that needs less "
        "memory; replies and files say so; %(default)s",
    )
    group = parser.add_argument_group("limits")
    for name, default, text in _STORAGE:
        group.add_argument(
            name, type=_positive(type(default)), default=default, metavar="N", help=f"{text}; %(default)s"
        )
    for field in fields(ServiceLimits):
        kind = float if field.name.endswith("seconds") else int
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=_positive(kind),
            default=field.default,
            metavar="N",
            help=f"{_LIMITS[field.name]}; {field.default:,}" if field.default else _LIMITS[field.name],
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
    """The model to serve where none was named. Raises UserError with a way to make one."""
    model = newest_model(_RUNS)
    if model is None:
        raise UserError(_HOW_TO_MAKE_ONE)
    return str(model)


def newest_model(runs: Path) -> Path | None:
    """The directory `model` of the run under `runs` that was finished last, None if none was.

    A run is finished when its `model/` is whole: a damaged one is passed over.
    """
    configs = [config for config in runs.glob("*/model/config.json") if config.is_file()]
    newest_first = sorted(configs, key=lambda config: config.stat().st_mtime, reverse=True)
    models = (config.parent for config in newest_first)
    return next((model for model in models if damage_of_result(model, "config.json") is None), None)


def _examples(service: "Service", folder: Path) -> list[Path]:
    from latent_ae.app.tabs.examples import example_images  # noqa: PLC0415

    first = service.models()[0]
    return example_images(folder, channels=first.channels, side=first.native_size)


def _line(model: "ModelInfo") -> str:
    latents = f"{model.codebook_size} codes" if model.codebook_size else f"{model.latent_channels} channels"
    latents += ", a learned prior" if model.learned_prior else ""
    return (
        f"{model.id}: {model.kind}, {model.parameters / 1e6:.1f} M parameters, factor {model.factor}, {latents}; "
        f"encoder in {model.encoder_precision}, decoder in {model.decoder_precision}, on {model.device}"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class _Stopped(BaseException):
    """SIGTERM or SIGINT came before the server answered."""


class _Signals:
    """SIGTERM and SIGINT end the server once it answers, and the start before; a second one ends the process."""

    def __init__(self) -> None:
        self._came = threading.Event()
        self._waiting = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def wait(self) -> None:
        """Return when one has come."""
        self._waiting = True
        self._came.wait()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self._came.set()
        if not self._waiting:
            raise _Stopped


if __name__ == "__main__":
    sys.exit(main())
