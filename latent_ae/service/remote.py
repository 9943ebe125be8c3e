"""The wire format of diffusers' remote VAE (`diffusers.utils.remote_utils`), without its HTTP.

A route hands over the query and the body, and sends back a reply's bytes, media type and headers:

    query = request.query_params.multi_items()
    reply = service.decode_tensor(RemoteDecode.from_query(query, body))
    return Response(reply.data, media_type=reply.media_type, headers=reply.headers)

A ServiceError becomes a response of its `status` whose body is JSON; diffusers shows it.
"""

import io
import json
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from latent_ae.io.image import from_tensor, to_pil
from latent_ae.io.latent_file.latents import DTYPES
from latent_ae.io.pixel_format import Array
from latent_ae.service.admission import Request
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.errors import BadRequest, TooLarge
from latent_ae.service.jobs import ServedModel
from latent_ae.service.limits import ServiceLimits, check_pixels
from latent_ae.service.uploads import read_image, read_upload

_MEDIA_TYPES = {"jpg": ("JPEG", "image/jpeg"), "jpeg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png")}
_JPEG_QUALITY = 95


def _numbers(value: Any) -> Any:
    """A list is its name again and again, as `requests` sends it, or one JSON list."""
    return value[0].strip("[]() ").split(",") if isinstance(value, list) and len(value) == 1 else value


_Size = Annotated[int, Field(ge=0, lt=10**9)]
_Shape = Annotated[
    tuple[_Size, ...],
    BeforeValidator(_numbers),
    Field(min_length=1, max_length=8, description="a list of whole numbers, as shape=1&shape=4&shape=64&shape=64"),
]
_Dtype = Annotated[Literal["float32", "float16", "bfloat16"], Field(description="float32, float16 or bfloat16")]
_Side = Annotated[_Size | None, Field(description="a whole number of pixels")]
_Scale = Annotated[float | None, Field(gt=0, allow_inf_nan=False, description="a finite number above 0")]
_Shift = Annotated[float | None, Field(allow_inf_nan=False, description="a finite number")]
_Switch = Annotated[bool, Field(description="true or false")]


class _Query:
    @classmethod
    def from_query(cls, query: Iterable[tuple[str, str]], data: bytes) -> Self:
        """From a request's query and body. Raises BadRequest, and TooLarge for a shape beyond any tensor."""
        lists: dict[str, list[str]] = {}
        for name, value in query:
            lists.setdefault(name, []).append(value)
        fields = cls.__pydantic_fields__  # type: ignore[attr-defined]
        values = {name: found if name == "shape" else found[-1] for name, found in lists.items() if name in fields}
        try:
            return cls(**{**values, "data": data})
        except ValidationError as error:
            name, problem = str(error.errors()[0]["loc"][0]), error.errors()[0]["type"]
            if name == "shape" and problem == "less_than":
                raise TooLarge("the shape is larger than any tensor that this server takes") from None
            got = repr(values[name])[:40] if name in values else "none"
            raise BadRequest(f"{name} must be {fields[name].description}, got {got}") from None


@dataclass(frozen=True)
class RemoteDecode(_Query):
    """A request of `remote_decode`."""

    data: bytes
    """the tensor's bytes, row-major, little-endian"""
    shape: _Shape
    """[B,c,h,w], or packed as FLUX's pipeline packs them: [B, h/2 * w/2, 4c]"""
    dtype: _Dtype
    height: _Side = None
    width: _Side = None
    """of the image: needed for packed latents; ignored for others, whose shape says it"""
    scaling_factor: _Scale = None
    """latents are divided by it ..."""
    shift_factor: _Shift = None
    """... and then moved by it"""
    do_scaling: _Switch = False
    """undo what the model's pipelines do to latents if no factors are given"""
    output_type: Annotated[Literal["pil", "pt"], Field(description="pil or pt")] = "pil"
    """pil: an image file; pt: a tensor"""
    image_format: Annotated[Literal["jpg", "jpeg", "png"], Field(description="jpg or png")] = "jpg"
    """of `pil`"""
    partial_postprocess: _Switch = False
    """of `pt`: uint8 [B,H,W,3] instead of [B,C,H,W] in [-1, 1] of the request's dtype"""


@dataclass(frozen=True)
class RemoteEncode(_Query):
    """A request of `remote_encode`."""

    data: bytes
    """an image file, or a tensor's bytes"""
    shape: _Shape | None = None
    """[B,C,H,W] of a tensor in [-1, 1]; None: `data` is an image file"""
    dtype: _Dtype | None = None
    scaling_factor: _Scale = None
    """latents are first moved by minus `shift_factor` and then multiplied by it"""
    shift_factor: _Shift = None


@dataclass(frozen=True)
class RemoteReply:
    """What goes back."""

    data: bytes
    media_type: str
    headers: dict[str, str]
    """shape (JSON) and dtype of a tensor; encoder: the identity of the model's encoder"""


def decode(asked: RemoteDecode, request: Request, model: ServedModel, limits: ServiceLimits) -> RemoteReply:
    """The decoded images as they were asked for. Raises BadRequest, TooLarge."""
    form = model.info.pixel_format
    if (form.numbers or form.channels not in (1, 3)) and (asked.output_type == "pil" or asked.partial_postprocess):
        raise BadRequest(
            f"the model's images are {form.describe()}, which this reply cannot hold: ask for output_type pt without "
            "partial_postprocess, or use the endpoint decode"
        )
    with request.cpu_slot():
        latents = latents_of(asked, model, limits)
    pixels = torch.stack(request.run(model.decode_vectors(latents)))
    encoder = model.info.encoder
    with request.cpu_slot():
        if asked.output_type == "pil":
            kind, media_type = _MEDIA_TYPES[asked.image_format]
            stream = io.BytesIO()
            to_pil(from_tensor(pixels[0])).save(stream, kind, quality=_JPEG_QUALITY)
            return RemoteReply(stream.getvalue(), media_type, {"encoder": encoder})
        if asked.partial_postprocess:
            levels = torch.from_numpy(from_tensor(pixels))
            return _tensor_reply(levels.expand(*levels.shape[:3], 3), encoder)  # PIL takes no [H,W,1]
        return _tensor_reply(pixels.to(DTYPES[asked.dtype]), encoder)


def encode(asked: RemoteEncode, request: Request, model: ServedModel, limits: ServiceLimits) -> RemoteReply:
    """Raw latents [B,c,h,w], scaled as asked, in the dtype of the request's tensor, or float32 for an image file.

    Raises BadRequest, TooLarge, and for a file as `read_image`.
    """
    with request.cpu_slot():
        images = images_of(asked, model.info, limits)
    latents = torch.stack(request.run(model.encode_vectors(images)))
    scaled = (latents - (asked.shift_factor or 0.0)) * (asked.scaling_factor or 1.0)
    return _tensor_reply(_finite(scaled.to(DTYPES[asked.dtype or "float32"]), "the scaled latents"), model.info.encoder)


def latents_of(asked: RemoteDecode, model: ServedModel, limits: ServiceLimits) -> Tensor:
    """Raw latents [B,c,h,w] float32. Raises BadRequest, TooLarge; the data is read last."""
    info = model.info
    if asked.output_type == "pil" and asked.shape[0] != 1:
        raise BadRequest("output_type pil gives one image: send one, or ask for pt with partial_postprocess")
    shape = _unpacked_shape(asked, info) if len(asked.shape) == 3 else asked.shape
    _check_shape(shape, info.latent_channels, info.factor, limits)
    latents = _tensor(asked.data, asked.shape, asked.dtype)
    if shape != asked.shape:
        # each row of packed latents is a square of 2x2 positions, channel by channel
        count, channels, height, width = shape
        squares = latents.reshape(count, height // 2, width // 2, channels, 2, 2)
        latents = squares.permute(0, 3, 1, 4, 2, 5).reshape(shape)
    scaling, shift = asked.scaling_factor, asked.shift_factor
    if asked.do_scaling and scaling is None and shift is None:
        return _finite(model.codec.normalisation.undone(latents), "the scaled latents")
    if asked.do_scaling and scaling is None:
        scaling = info.scaling_factor
    return _finite(latents / (scaling or 1.0) + (shift or 0.0), "the scaled latents")


def images_of(asked: RemoteEncode, info: ModelInfo, limits: ServiceLimits) -> list[Array] | Tensor:
    """The image [H,W,C] of a file, or [B,C,H,W] float32 in [-1, 1] of a tensor.

    Raises BadRequest, TooLarge, and for a file as `read_image`.
    """
    if asked.shape is None:
        return [read_image(read_upload(asked.data, limits), pixels=info.pixel_format, limits=limits).pixels]
    if asked.dtype is None:
        raise BadRequest(f"a tensor needs dtype, one of {', '.join(DTYPES)}")
    _check_shape(asked.shape, info.channels, 1, limits)
    pixels = _tensor(asked.data, asked.shape, asked.dtype)
    if (largest := float(pixels.abs().max())) > 1.01:  # a little more is a rounding of bfloat16
        raise BadRequest(f"pixels must be in [-1, 1], got up to {largest:g}")
    return pixels.clamp(-1, 1)


def _tensor_reply(tensor: Tensor, encoder: str) -> RemoteReply:
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    headers = {"shape": json.dumps(list(tensor.shape)), "dtype": str(tensor.dtype).rpartition(".")[2]}
    return RemoteReply(data, "tensor/binary", {**headers, "encoder": encoder})


def _check_shape(shape: tuple[int, ...], channels: int, factor: int, limits: ServiceLimits) -> None:
    if len(shape) != 4 or min(shape) < 1 or shape[1] != channels:
        raise BadRequest(f"the model takes tensors of shape [B, {channels}, h, w], got {list(shape)}")
    if shape[0] > limits.samples:
        raise TooLarge(f"these are {shape[0]} images, and this server takes at most {limits.samples} at a time")
    check_pixels(shape[2] * factor, shape[3] * factor, limits, count=shape[0])


def _unpacked_shape(asked: RemoteDecode, info: ModelInfo) -> tuple[int, ...]:
    """[B,c,h,w] of packed latents. The image's sides are brought down to a multiple of twice the factor, as by FLUX."""
    if asked.height is None or asked.width is None:
        raise BadRequest("a shape of 3 numbers is that of packed latents, which need height and width in pixels")
    rows, columns = (side // (2 * info.factor) for side in (asked.height, asked.width))
    expected = (asked.shape[0], rows * columns, 4 * info.latent_channels)
    if asked.shape != expected:
        raise BadRequest(
            f"packed latents of {asked.width}x{asked.height} pixels have the shape {list(expected)} for this model, "
            f"got {list(asked.shape)}"
        )
    return asked.shape[0], info.latent_channels, 2 * rows, 2 * columns


def _tensor(data: bytes, shape: tuple[int, ...], dtype: str) -> Tensor:
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if len(data) != expected:
        raise BadRequest(f"a {dtype} tensor of shape {list(shape)} has {expected} bytes, got {len(data)}")
    return _finite(torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(shape).float(), "the tensor")


def _finite(values: Tensor, what: str) -> Tensor:
    if not bool(values.isfinite().all()):
        raise BadRequest(f"{what} hold values that are not finite")
    return values
