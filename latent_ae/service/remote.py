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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ae.io.image import Pixels, from_tensor, to_pil
from latent_ae.service.errors import BadRequest, TooLarge
from latent_ae.service.intake import check_pixels, read_image, read_upload
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.results import ModelInfo

DTYPES = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}
"""of latents and pixels on the wire"""
_IMAGE_TYPES = {"jpg": ("JPEG", "image/jpeg"), "jpeg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png")}
_JPEG_QUALITY = 95

Query = Iterable[tuple[str, str]]
"""names and values, a list as its name again and again"""


@dataclass(frozen=True)
class RemoteDecode:
    """What `remote_decode` asks."""

    data: bytes
    """the tensor's bytes, row-major, little-endian"""
    shape: tuple[int, ...]
    """[B,c,h,w], or packed as FLUX's pipeline packs them: [B, h/2 * w/2, 4c]"""
    dtype: str
    """float16, float32 or bfloat16"""
    height: int | None = None
    width: int | None = None
    """of the image in pixels: needed for packed latents; others say it by their shape, whatever is given here"""
    scaling_factor: float | None = None
    """latents are divided by it ..."""
    shift_factor: float | None = None
    """... and then moved by it"""
    do_scaling: bool = False
    """scale by the model's own factors where none are given"""
    output_type: str = "pil"
    """pil: an image file; pt: a tensor"""
    image_format: str = "jpg"
    """jpg or png, of `pil`"""
    partial_postprocess: bool = False
    """of `pt`: uint8 [B,H,W,3] instead of [B,C,H,W] in [-1, 1] of the request's dtype"""

    @classmethod
    def from_query(cls, query: Query, data: bytes) -> "RemoteDecode":
        """From a request's query and body. Raises BadRequest for what cannot be read."""
        fields = _fields(query)
        return cls(
            data=data,
            shape=_shape(fields.get("shape")),
            dtype=_text(fields, "dtype", ""),
            height=_whole(fields, "height"),
            width=_whole(fields, "width"),
            scaling_factor=_float(fields, "scaling_factor"),
            shift_factor=_float(fields, "shift_factor"),
            do_scaling=_bool(fields, "do_scaling"),
            output_type=_text(fields, "output_type", "pil"),
            image_format=_text(fields, "image_format", "jpg"),
            partial_postprocess=_bool(fields, "partial_postprocess"),
        )


@dataclass(frozen=True)
class RemoteEncode:
    """What `remote_encode` asks."""

    data: bytes
    """an image file, or a tensor's bytes"""
    shape: tuple[int, ...] | None = None
    """[B,C,H,W] of a tensor in [-1, 1]; None: `data` is an image file"""
    dtype: str | None = None
    scaling_factor: float | None = None
    """latents are first moved by minus `shift_factor` and then multiplied by it"""
    shift_factor: float | None = None

    @classmethod
    def from_query(cls, query: Query, data: bytes) -> "RemoteEncode":
        """From a request's query and body. Raises BadRequest for what cannot be read."""
        fields = _fields(query)
        return cls(
            data=data,
            shape=_shape(fields["shape"]) if "shape" in fields else None,
            dtype=_text(fields, "dtype", "") if "dtype" in fields else None,
            scaling_factor=_float(fields, "scaling_factor"),
            shift_factor=_float(fields, "shift_factor"),
        )


@dataclass(frozen=True)
class RemoteReply:
    """What goes back."""

    data: bytes
    media_type: str
    headers: dict[str, str]
    """shape (JSON) and dtype of a tensor; encoder: the identity of the model's encoder"""


def latents_of(asked: RemoteDecode, info: ModelInfo, limits: ServiceLimits) -> Tensor:
    """Raw latents [B,c,h,w] float32. Raises BadRequest, TooLarge; the data is looked at last."""
    if asked.output_type not in ("pil", "pt"):
        raise BadRequest(f"output_type is pil or pt, got {asked.output_type[:20]!r}")
    if asked.output_type == "pil" and asked.image_format not in _IMAGE_TYPES:
        raise BadRequest(f"image_format is jpg or png, got {asked.image_format[:20]!r}")
    if asked.output_type == "pil" and asked.shape[:1] != (1,):
        raise BadRequest("output_type pil gives one image: send one, or ask for pt with partial_postprocess")
    shape = _unpacked_shape(asked, info) if len(asked.shape) == 3 else asked.shape
    _check_shape(shape, info.latent_channels, info.factor, limits)
    latents = _tensor(asked.data, asked.shape, asked.dtype)
    if shape != asked.shape:
        latents = _unpack(latents, shape)
    scaling, shift = asked.scaling_factor, asked.shift_factor
    if scaling is None and asked.do_scaling:
        scaling, shift = info.scaling_factor, info.shift_factor if shift is None else shift
    return _finite(latents / _factor(scaling) + (shift or 0.0), "the scaled latents")


def images_of(asked: RemoteEncode, info: ModelInfo, limits: ServiceLimits) -> list[Pixels] | Tensor:
    """The pixels [H,W,C] uint8 of an image file, or [B,C,H,W] float32 in [-1, 1] of a tensor.

    Raises BadRequest, TooLarge, and for a file as `read_image`.
    """
    if asked.shape is None:
        return [read_image(read_upload(asked.data, limits), channels=info.channels, limits=limits).pixels]
    _check_shape(asked.shape, info.channels, 1, limits)
    pixels = _tensor(asked.data, asked.shape, asked.dtype or "")
    if (largest := float(pixels.abs().max())) > 1.01:  # a little more is a rounding of bfloat16
        raise BadRequest(f"pixels are in [-1, 1], got up to {largest:g}")
    return pixels.clamp(-1, 1)


def decoded_reply(asked: RemoteDecode, pixels: Tensor, encoder: str) -> RemoteReply:
    """Decoded pixels [B,C,H,W] in [-1, 1] as they were asked for."""
    if asked.output_type == "pil":
        kind, media_type = _IMAGE_TYPES[asked.image_format]
        stream = io.BytesIO()
        to_pil(from_tensor(pixels[0])).save(stream, kind, quality=_JPEG_QUALITY)
        return RemoteReply(stream.getvalue(), media_type, {"encoder": encoder})
    if asked.partial_postprocess:
        levels = torch.from_numpy(from_tensor(pixels))
        return _tensor_reply(levels.expand(*levels.shape[:3], 3), encoder)  # PIL takes no [H,W,1]
    return _tensor_reply(pixels.to(DTYPES[asked.dtype]), encoder)


def encoded_reply(asked: RemoteEncode, latents: Tensor, encoder: str) -> RemoteReply:
    """Raw latents [B,c,h,w], scaled as asked, in the dtype of the request's tensor, or float32 for an image file."""
    scaled = (latents - (asked.shift_factor or 0.0)) * _factor(asked.scaling_factor)
    return _tensor_reply(
        _finite(scaled.to(DTYPES[asked.dtype] if asked.dtype else torch.float32), "the scaled latents"), encoder
    )


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


def _unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[B, h/2 * w/2, 4c], each row a square of 2x2 positions, channel by channel => `shape` [B,c,h,w]."""
    count, channels, height, width = shape
    squares = packed.reshape(count, height // 2, width // 2, channels, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(shape)


def _tensor(data: bytes, shape: tuple[int, ...], dtype: str) -> Tensor:
    if dtype not in DTYPES:
        raise BadRequest(f"dtype is {', '.join(DTYPES)}, got {dtype[:20]!r}")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if len(data) != expected:
        raise BadRequest(f"a {dtype} tensor of shape {list(shape)} has {expected} bytes, got {len(data)}")
    return _finite(torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(shape).float(), "the tensor")


def _finite(values: Tensor, what: str) -> Tensor:
    if not bool(values.isfinite().all()):
        raise BadRequest(f"{what} hold values that are not finite")
    return values


def _factor(scaling: float | None) -> float:
    if scaling is None:
        return 1.0
    if not scaling > 0 or not math.isfinite(scaling):
        raise BadRequest(f"scaling_factor is above 0 and finite, got {scaling}")
    return scaling


def _fields(query: Query) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in query:
        fields.setdefault(name, []).append(value)
    return fields


def _shape(values: Sequence[str] | None) -> tuple[int, ...]:
    """4 numbers, each its own value as `requests` sends a list, or one JSON list."""
    words = values or []
    if len(words) == 1:
        words = words[0].strip("[]() ").split(",")
    if not 0 < len(words) <= 8 or not all(word.strip().isascii() and word.strip().isdigit() for word in words):
        raise BadRequest("shape is a list of whole numbers, as shape=1&shape=4&shape=64&shape=64")
    if max(len(word.strip()) for word in words) > 9:
        raise TooLarge("the shape is larger than any tensor that this server takes")
    return tuple(int(word) for word in words)


def _text(fields: dict[str, list[str]], name: str, default: str) -> str:
    return fields.get(name, [default])[-1]


def _float(fields: dict[str, list[str]], name: str) -> float | None:
    if name not in fields:
        return None
    try:
        value = float(fields[name][-1])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{name} is a number, got {fields[name][-1][:20]!r}")
    return value


def _whole(fields: dict[str, list[str]], name: str) -> int | None:
    if name not in fields:
        return None
    word = fields[name][-1]
    if not (word.isascii() and word.isdigit() and len(word) <= 9):
        raise BadRequest(f"{name} is a whole number of pixels, got {word[:20]!r}")
    return int(word)


def _bool(fields: dict[str, list[str]], name: str) -> bool:
    word = _text(fields, name, "false").lower()
    if word not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name} is true or false, got {word[:20]!r}")
    return word in ("true", "1")
