"""The server as a program: from the models' names to the signal that ends it."""

import gc
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

from latent_ae.app import gradio_settings, storage
from latent_ae.app.options import ServerOptions
from latent_ae.errors import UserError

if TYPE_CHECKING:
    from latent_ae.inference.precision import Precision
    from latent_ae.service.catalog import ModelInfo
    from latent_ae.service.limits import ServiceLimits

_EXTRA = ("gradio", "prometheus_client")
"""what only the extra `app` installs"""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    models: Sequence[str],
    *,
    options: ServerOptions,
    limits: "ServiceLimits",
    priors: Sequence[str] = (),
    device: str | None = None,
    precision: "Precision | None" = None,
    tile: int | None = None,
) -> None:
    """Serve models, given as in `Codec.load`, until SIGTERM or SIGINT. Raises UserError."""
    for number in _SIGNALS:
        signal.signal(number, _stop)
    try:
        if missing := [name for name in _EXTRA if find_spec(name) is None]:
            raise UserError(f"the app needs {' and '.join(missing)}: pip install 'latent-ae[app]'")
        with storage.private_folder() as folder:
            gradio_settings.set_environment(folder)
            from latent_ae.app import log  # noqa: PLC0415
            from latent_ae.app.launch import launch, require_tools  # noqa: PLC0415
            from latent_ae.app.page import create_demo  # noqa: PLC0415
            from latent_ae.app.tabs.example_results import ExampleResults  # noqa: PLC0415
            from latent_ae.app.tabs.examples import example_images  # noqa: PLC0415
            from latent_ae.inference import device_named  # noqa: PLC0415
            from latent_ae.service.service import Service  # noqa: PLC0415

            if options.mcp:  # before the models are loaded
                require_tools(accounts=options.auth is not None)
            service = Service.load(
                models, limits=limits, device=device_named(device), precision=precision, tile=tile, priors=priors
            )
            first = service.models()[0]
            paths = (
                ()
                if first.pixel_format.numbers
                else example_images(folder, channels=first.channels, side=first.native_size)
            )
            examples = ExampleResults(service, paths)
            log.set_logs()
            running = launch(create_demo(service, examples=examples), service, options)
            gc.collect()
            gc.freeze()  # what is there now stays: later collections look only at what requests leave behind
            lines = [*map(model_line, service.models()), f"serving on {running.url}"]
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            sys.stdout.flush()
            threading.Thread(target=examples.prepare, name="latent-ae-examples", daemon=True).start()
            try:
                threading.Event().wait()
            finally:
                running.close()
    except _Stopped:
        pass


def model_line(model: "ModelInfo") -> str:
    """A model's size and where and how it computes."""
    latents = f"{model.codebook_size} codes" if model.codebook_size else f"{model.latent_channels} channels"
    latents += ", a learned prior" if model.learned_prior else ""
    return (
        f"{model.id}: {model.kind}, {model.parameters / 1e6:.1f} M parameters, factor {model.factor}, {latents}; "
        f"encoder in {model.encoder_precision}, decoder in {model.decoder_precision}, on {model.device}"
    )


class _Stopped(BaseException):
    """SIGTERM or SIGINT came."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End the server, or its start; a second signal ends the process."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    raise _Stopped
