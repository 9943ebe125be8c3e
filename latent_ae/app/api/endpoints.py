"""The public interface for programs: typed endpoints over Gradio's queue.

Files are uploads, lossless images and safetensors. An error reaches the client as `code: message`, with the codes of
`latent_ae.service.errors`, `bad_request` for a wrong type, and `internal`.
"""

import functools
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import gradio as gr
from gradio import FileData
from pydantic import TypeAdapter, ValidationError

from latent_ae.app import gradio_internals
from latent_ae.app.files import download, whole
from latent_ae.app.perimeter.content import uploaded
from latent_ae.io.latent_file.latents import Dtype
from latent_ae.service.catalog import ModelInfo, Prior
from latent_ae.service.comparison import Compared
from latent_ae.service.errors import BadRequest, ServiceError
from latent_ae.service.results import Encoded, Images, Reconstruction
from latent_ae.service.service import Service

_log = logging.getLogger(__name__)

_FILE_EXPECTED = 'expected an uploaded file, as {"path": PATH, "meta": {"_type": "gradio.FileData"}}'

Numbers = dict[str, Any]


def add_endpoints(service: Service) -> None:
    """Add the endpoints to the Blocks that is being built."""
    add = functools.partial(gr.events.api, concurrency_limit=None, api_visibility="public")
    for function in (*_coding(service), *_drawing(service)):
        # Gradio's queue admits everything: the service's own is bounded, forms batches, and refuses when it is full.
        endpoint = add(_typed(function, service), api_name=function.__name__)
        gradio_internals.describe_parameters(endpoint)


def _coding(service: Service) -> tuple[Callable[..., Any], ...]:
    def encode(
        image: FileData,
        model: str | None = None,
        seed: int | None = None,
        dtype: Dtype | None = None,
        logvar: bool = False,
    ) -> tuple[FileData, Numbers]:
        """Image to latents: the latent file (safetensors) and its numbers.

        Args:
            image: an uploaded image file; from a tool, a data: URI.
            model: an id from `models`; default: the first.
            seed: seed of a sample of the posterior; default: its mode.
            dtype: type of the floats in the file; default: float32.
            logvar: also keep the posterior's log-variance.
        """
        encoded = service.encode(_path(image), model=model, seed=seed, dtype=dtype, logvar=logvar)
        return _file(download(encoded.file, encoded.file_name)), _numbers_of_latents(encoded)

    def decode(latents: FileData, model: str | None = None, foreign: bool = False) -> tuple[list[FileData], Numbers]:
        """Latents to images: a file for each image of the latent file, and their numbers.

        Files hold all channels and bits: PNG where it can, else TIFF.

        Args:
            latents: an uploaded latent file (safetensors, or ComfyUI's .latent); from a tool, a data: URI.
            model: an id from `models`; default: the one whose encoder made the latents.
            foreign: decode with `model` even latents that name another encoder or none; the note says the assumptions.
        """
        return _images(service.decode(_path(latents), model=model, foreign=foreign), "decoded")

    def reconstruct(
        image: FileData, model: str | None = None, baselines: bool = False
    ) -> tuple[FileData, FileData, Numbers]:
        """Reconstruct an image: the reconstruction as PNG (TIFF if PNG cannot hold it), latent file, metrics and sizes.

        Args:
            image: an uploaded image file; from a tool, a data: URI.
            model: an id from `models`; default: the first.
            baselines: also measure JPEG and WebP files of at most the same size.
        """
        done = service.reconstruct(_path(image), model=model, baselines=baselines)
        file = download(done.encoded.file, done.encoded.file_name)
        reconstruction = whole(done.reconstructed, done.pixel_format, "reconstruction")
        return _file(reconstruction), _file(file), _numbers_of_reconstruction(done)

    def compare(image: FileData, models: list[str] | None = None) -> tuple[list[FileData], list[Numbers]]:
        """Reconstruct an image by several models: a file of each model, and a row of numbers about each.

        A row says what was compared (compared_in: both images in colour, in grey, or in another pixel format), what the
        model stores, how close its reconstruction is, and the place of its file; or the error for which it has none.

        Args:
            image: an uploaded image file; from a tool, a data: URI.
            models: ids from `models`; default: all.
        """
        rows = service.compare(_path(image), models=models)
        made = [each.made for each in rows if each.made is not None]
        files = [_file(whole(each.reconstructed, each.pixel_format, each.model)) for each in made]
        return files, [_numbers_of_row(each, made) for each in rows]

    return encode, decode, reconstruct, compare


def _drawing(service: Service) -> tuple[Callable[..., Any], ...]:
    limits = service.limits

    def sample(
        model: str | None = None,
        count: int = limits.default_count,
        seed: int = 0,
        temperature: float = 1.0,
        size: int | None = None,
        prior: Prior = "normal",
        label: int | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> tuple[list[FileData], Numbers]:
        """Images decoded from random latents, as PNGs, and their numbers.

        Args:
            model: an id from `models`; default: the first.
            count: number of images.
            seed: the same seed draws the same images.
            temperature: standard deviation of the latents; of codes only with a learned prior, 0 the most probable.
            size: side in pixels; default: that of the training images.
            prior: normal, or learned if the model has a learned_prior.
            label: class to draw, of a prior of codes; default: each in turn.
            top_k: draw each code from so many of the most probable ones.
            top_p: draw each code from the most probable ones of together this probability.
        """
        images = service.sample(
            model=model,
            count=count,
            seed=seed,
            temperature=temperature,
            size=size,
            prior=prior,
            label=label,
            top_k=top_k,
            top_p=top_p,
        )
        return _images(images, "sample")

    def interpolate(
        a: FileData, b: FileData, model: str | None = None, steps: int = limits.default_steps, spherical: bool = False
    ) -> tuple[list[FileData], Numbers]:
        """Interpolation between the latents of two images, as PNGs, and their numbers.

        Args:
            a: the first image: an uploaded file; from a tool, a data: URI.
            b: the last image, likewise.
            model: an id from `models`; default: the first.
            steps: number of images, both ends included.
            spherical: interpolate along an arc instead of a line.
        """
        return _images(service.interpolate(_path(a), _path(b), model=model, steps=steps, spherical=spherical), "step")

    def models() -> list[Numbers]:
        """The models of this server; the first is the default."""
        return [_json(_numbers_of_model(model)) for model in service.models()]

    return sample, interpolate, models


def _typed(function: Callable[..., Any], service: Service) -> Callable[..., Any]:
    """The function with errors as Gradio's, and arguments checked against its type hints, which Gradio does not do.

    Its `check(name, value)` converts an argument, or raises BadRequest.
    """
    hints = get_type_hints(function)
    checks = {name: TypeAdapter(hints[name]) for name in inspect.signature(function).parameters}

    def check(name: str, value: Any) -> Any:
        try:
            return checks[name].validate_python(value, strict=not isinstance(value, dict))
        except ValidationError as error:
            file = checks[name].core_schema["type"] == "model"
            raise BadRequest(f"{name}: {_FILE_EXPECTED if file else error.errors()[0]['msg'].lower()}") from None

    def endpoint(*arguments: Any) -> Any:
        try:
            try:
                values = [check(name, value) for name, value in zip(checks, arguments, strict=True)]
            except BadRequest as error:
                service.admission.count(function.__name__, error.code, seconds=0.0)
                raise
            return function(*values)
        except ServiceError as error:
            raise gr.Error(f"{error.code}: {error}", duration=None, print_exception=False) from None
        except Exception:  # whatever it is, its trace belongs into the log and not into the reply
            _log.exception("%s failed", function.__name__)
            message = "internal: the server failed at this request; its log says more"
            raise gr.Error(message, duration=None, print_exception=False) from None
        finally:
            gradio_internals.forget_caller()

    functools.update_wrapper(endpoint, function)
    vars(endpoint)["check"] = check  # called by `content.Calls`
    return endpoint


def _path(file: FileData) -> Path:
    """The path of an upload. Raises BadRequest for any other path, whatever Gradio let through."""
    path = uploaded(file.path, gradio_internals.upload_folder().resolve())
    if not path.is_file():
        raise BadRequest("the file is no longer on this server: upload it again")
    return path


def _file(path: str) -> Any:
    """A result as Gradio sends it; functions declare it as FileData, which clients read in the schema."""
    return FileData(path=path, orig_name=Path(path).name, size=Path(path).stat().st_size).model_dump()


def _images(images: Images, name: str) -> tuple[list[Any], Numbers]:
    files = [
        _file(whole(image, images.pixel_format, f"{name}-{number}"))
        for number, image in enumerate(images.images, start=1)
    ]
    numbers = {"model": images.model, "note": images.note, "seconds": images.seconds}
    return files, {**numbers, "decoding": images.decoding.to_json(), "seam_db": list(images.seam_db)}


def _numbers_of_model(model: ModelInfo) -> Numbers:
    told = {name: value for name, value in vars(model).items() if name != "card_pictures"}
    return {**told, "pixel_format": vars(model.pixel_format)}


def _numbers_of_latents(encoded: Encoded) -> Numbers:
    latents = encoded.latents
    return {
        **{name: getattr(latents, name) for name in ("encoder", "kind", "height", "width", "factor")},
        "shape": list(latents.tensor.shape),
        "bytes": len(encoded.file),
        "compute": latents.compute and latents.compute.to_json(),
        "remarks": list(encoded.remarks),
    }


def _numbers_of_reconstruction(done: Reconstruction) -> Numbers:
    compute, beside = done.encoded.latents.compute, [dict(vars(each)) for each in done.baselines]
    for baseline in beside:
        del baseline["image"]
    numbers = {
        **{name: getattr(done, name) for name in ("model", "metrics", "notes", "seam_db", "seconds", "unlike")},
        "remarks": done.encoded.remarks,
        "sizes": [vars(size) for size in done.sizes],
        "baselines": beside,
        "encoding": compute and compute.to_json(),
        "decoding": done.decoding.to_json(),
    }
    return {name: _json(value) for name, value in numbers.items()}


def _numbers_of_row(row: Compared, made: Sequence[Reconstruction]) -> Numbers:
    if row.refusal is not None:
        return {"model": row.model, "error": f"{row.refusal.code}: {row.refusal}"}
    assert row.made is not None
    assert row.stored is not None
    numbers = {
        "model": row.model,
        "compared_in": row.compared_in,
        "stored_shape": row.shape,
        "bits_per_number": row.bits_per_number,
        "bits_per_pixel": row.stored.bits_per_pixel,
        **{name: getattr(row.made, name) for name in ("metrics", "notes", "seconds")},
        "file": next(place for place, each in enumerate(made) if each is row.made),
    }
    return {name: _json(value) for name, value in numbers.items()}


def _json(value: Any) -> Any:
    """The value as JSON: the PSNR of equal images is infinite, which becomes null."""
    if isinstance(value, dict):
        return {name: _json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
