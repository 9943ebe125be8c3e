"""The public interface for programs: six typed endpoints over Gradio's queue.

Files come as uploads and go as PNG or safetensors, so nothing is lost on the way. An error reaches the client as
`code: message`, with the codes of `latent_ae.service.errors`, `bad_request` for a wrong type, and `internal`.
"""

import dataclasses
import functools
import inspect
import io
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import gradio as gr
from gradio import FileData
from pydantic import TypeAdapter, ValidationError

from latent_ae.app import gradio_internals, temporary
from latent_ae.io.image import Pixels, to_pil
from latent_ae.io.latent_file.latents import Compute, Dtype
from latent_ae.service import Service
from latent_ae.service.catalog import Prior
from latent_ae.service.errors import BadRequest, ServiceError
from latent_ae.service.results import Images

_log = logging.getLogger(__name__)

_FILE_EXPECTED = 'expected an uploaded file, as {"path": PATH, "meta": {"_type": "gradio.FileData"}}'

Numbers = dict[str, Any]


def add_endpoints(service: Service) -> None:
    """Add the endpoints to the Blocks that is being built."""
    add = functools.partial(gr.events.api, concurrency_limit=None, api_visibility="public")
    for function in (*_coding(service), *_drawing(service)):
        # Gradio's queue holds nothing back: the service's own is bounded, batches, and says when it is full.
        add(_typed(function, service), api_name=function.__name__)


def _coding(service: Service) -> tuple[Callable[..., Any], ...]:
    def encode(
        image: FileData,
        model: str | None = None,
        seed: int | None = None,
        dtype: Dtype | None = None,
        logvar: bool = False,
    ) -> tuple[FileData, Numbers]:
        """Image to latents: the latent file (safetensors), and its numbers.

        Args:
            image: an uploaded image file, or from a tool a data: URI.
            model: an id from `models`; the first of them if not given.
            seed: of a draw from the posterior; its mode if not given.
            dtype: of the floats in the file; float32 if not given.
            logvar: keep the posterior's log-variance too.
        """
        encoded = service.encode(_path(image), model=model, seed=seed, dtype=dtype, logvar=logvar)
        latents = encoded.latents
        return _file(encoded.file_name, encoded.file), {
            "encoder": latents.encoder,
            "kind": latents.kind,
            "height": latents.height,
            "width": latents.width,
            "factor": latents.factor,
            "shape": list(latents.tensor.shape),
            "bytes": len(encoded.file),
            "compute": _compute(latents.compute),
            "remarks": list(encoded.remarks),
        }

    def decode(latents: FileData, model: str | None = None, foreign: bool = False) -> tuple[list[FileData], Numbers]:
        """Latents to images: a PNG for each image of the latent file, and their numbers.

        Args:
            latents: an uploaded latent file (safetensors, or ComfyUI's .latent), or from a tool a data: URI.
            model: an id from `models`; the one whose encoder made the latents if not given.
            foreign: decode with `model` also what names another encoder, or none; the note says what was assumed.
        """
        return _images(service.decode(_path(latents), model=model, foreign=foreign), "decoded")

    def reconstruct(
        image: FileData, model: str | None = None, baselines: bool = False
    ) -> tuple[FileData, FileData, Numbers]:
        """What a model makes of an image: the reconstruction as PNG, the latent file, metrics and sizes.

        Args:
            image: an uploaded image file, or from a tool a data: URI.
            model: an id from `models`; the first of them if not given.
            baselines: measure JPEG and WebP at no more bytes too.
        """
        done = service.reconstruct(_path(image), model=model, baselines=baselines)
        return (
            _file("reconstruction.png", _png(done.reconstructed)),
            _file(done.encoded.file_name, done.encoded.file),
            _plain(
                {
                    "model": done.model,
                    "metrics": done.metrics,
                    "notes": done.notes,
                    "remarks": list(done.encoded.remarks),
                    "sizes": [dataclasses.asdict(size) for size in done.sizes],
                    "baselines": [_without(each, "image") for each in done.baselines],
                    "encoding": _compute(done.encoded.latents.compute),
                    "decoding": _compute(done.decoding),
                    "seam_db": done.seam_db,
                    "seconds": done.seconds,
                }
            ),
        )

    return encode, decode, reconstruct


def _drawing(service: Service) -> tuple[Callable[..., Any], ...]:
    limits = service.limits

    def sample(
        model: str | None = None,
        count: int = limits.default_count,
        seed: int = 0,
        temperature: float = 1.0,
        size: int | None = None,
        prior: Prior = "normal",
    ) -> tuple[list[FileData], Numbers]:
        """Images decoded from random latents, as PNGs, and their numbers.

        Args:
            model: an id from `models`; the first of them if not given.
            count: how many.
            seed: the same seed draws the same images.
            temperature: standard deviation of the latents; has no effect on codes.
            size: side in pixels; that of the training images if not given.
            prior: normal, or learned where the model has a learned_prior.
        """
        images = service.sample(model=model, count=count, seed=seed, temperature=temperature, size=size, prior=prior)
        return _images(images, "sample")

    def interpolate(
        a: FileData, b: FileData, model: str | None = None, steps: int = limits.default_steps, spherical: bool = False
    ) -> tuple[list[FileData], Numbers]:
        """The way from one image to another through the latent space, as PNGs, and their numbers.

        Args:
            a: the first of the way: an uploaded image file, or from a tool a data: URI.
            b: the last of the way, likewise.
            model: an id from `models`; the first of them if not given.
            steps: images on the way, both ends included.
            spherical: go along an arc instead of a line.
        """
        return _images(service.interpolate(_path(a), _path(b), model=model, steps=steps, spherical=spherical), "step")

    def models() -> list[Numbers]:
        """The models of this server; the first is the one that is used where none is named."""
        return [_plain(dataclasses.asdict(model)) for model in service.models()]

    return sample, interpolate, models


def _typed(function: Callable[..., Any], service: Service) -> Callable[..., Any]:
    """The function with typed errors, and arguments checked against its type hints, which Gradio does not do.

    Its `check(name, value)` gives an argument as the function takes it, or raises BadRequest.
    """
    hints = get_type_hints(function)
    checks = {name: TypeAdapter(hints[name]) for name in inspect.signature(function).parameters}

    def check(name: str, value: Any) -> Any:
        return _checked(name, checks[name], value)

    def endpoint(*arguments: Any) -> Any:
        try:
            try:
                values = [check(name, value) for name, value in zip(checks, arguments, strict=True)]
            except BadRequest as error:
                service.count_refused(function.__name__, error)
                raise
            return function(*values)
        except ServiceError as error:
            raise gr.Error(f"{error.code}: {error}", duration=None, print_exception=False) from None
        except Exception:
            _log.exception("%s failed", function.__name__)
            message = "internal: the server failed at this request; its log says more"
            raise gr.Error(message, duration=None, print_exception=False) from None
        finally:
            gradio_internals.forget_caller()

    functools.update_wrapper(endpoint, function)
    vars(endpoint)["check"] = check  # called by `content.Calls`
    return endpoint


def _checked(name: str, check: TypeAdapter[Any], value: Any) -> Any:
    try:
        return check.validate_python(value, strict=not isinstance(value, dict))
    except ValidationError as error:
        if check.core_schema["type"] == "model":
            raise BadRequest(f"{name}: {_FILE_EXPECTED}") from None
        raise BadRequest(f"{name}: {error.errors()[0]['msg'].lower()}") from None


def _path(file: FileData) -> Path:
    """Where an upload lies. Raises BadRequest for a path that is not one, whatever Gradio let through."""
    path = Path(file.path)
    if (
        "\0" in file.path
        or not path.resolve().is_relative_to(gradio_internals.upload_folder().resolve())
        or not path.is_file()
    ):
        raise BadRequest("the file was not uploaded to this server: upload it first")
    return path


def _file(name: str, data: bytes) -> Any:
    """A result as Gradio sends it; functions declare it as FileData, which clients read in the schema."""
    path = temporary.put(gradio_internals.upload_folder(), name, data)
    return FileData(path=str(path), orig_name=name, size=len(data)).model_dump()


def _images(images: Images, name: str) -> tuple[list[Any], Numbers]:
    files = [_file(f"{name}-{number}.png", _png(image)) for number, image in enumerate(images.images, start=1)]
    return files, {
        "model": images.model,
        "note": images.note,
        "seconds": images.seconds,
        "decoding": _compute(images.decoding),
        "seam_db": list(images.seam_db),
    }


def _compute(compute: Compute | None) -> Numbers | None:
    """How a side of the model ran: its precision, and in which tiles if not whole."""
    return None if compute is None else compute.to_json()


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    to_pil(pixels).save(out, format="PNG")
    return out.getvalue()


def _without(result: Any, field: str) -> Numbers:
    return {name: value for name, value in vars(result).items() if name != field}


def _plain(value: Any) -> Any:
    """The value as JSON can say it: the PSNR of equal images is infinite, which becomes null."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
