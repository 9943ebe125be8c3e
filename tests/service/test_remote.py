"""The wire format against the client of it: diffusers' own functions write the requests and read the replies."""

import io
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import requests
import torch
from diffusers import FluxPipeline
from diffusers.utils import remote_utils
from PIL import Image
from torch import Tensor

from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor, to_pil, to_tensor
from latent_ae.models.adapters.normalisation import scalars
from latent_ae.service.errors import BadRequest, BrokenUpload, TooLarge, UnknownModel
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.remote import RemoteDecode, RemoteEncode, RemoteReply, images_of
from latent_ae.service.service import Service

from .conftest import closing, pixels, saved

SCALING, SHIFT = 0.7, -0.2


def query_of(params: dict[str, Any]) -> list[tuple[str, str]]:
    """A query as a server sees it, by way of a real request."""
    url = requests.Request("POST", "http://localhost/", params=params).prepare().url
    return parse_qsl(urlsplit(url).query)


def response_of(reply: RemoteReply) -> requests.Response:
    response = requests.Response()
    response.status_code = 200
    response._content = reply.data  # requests fills it from a connection alone
    response.headers.update(reply.headers)
    return response


def remote_decode(service: Service, latents: Tensor, *, model: str = "kl", **options: Any) -> Any:
    """`diffusers.remote_decode` without a network."""
    sent = {name: options[name] for name in options if name != "return_type"}
    prepared = remote_utils.prepare_decode(latents, **sent)
    reply = service.decode_tensor(RemoteDecode.from_query(query_of(prepared["params"]), prepared["data"]), model=model)
    if options.get("output_type", "pil") == "pil":
        assert prepared["headers"]["Accept"] == reply.media_type
    return remote_utils.postprocess_decode(
        response_of(reply),
        output_type=options.get("output_type", "pil"),
        return_type=options.get("return_type", "pil"),
        partial_postprocess=options.get("partial_postprocess", False),
    )


def remote_encode(service: Service, image: Any, *, model: str = "kl", **options: Any) -> Tensor:
    prepared = remote_utils.prepare_encode(image, **options)
    reply = service.encode_tensor(RemoteEncode.from_query(query_of(prepared["params"]), prepared["data"]), model=model)
    found = remote_utils.postprocess_encode(response_of(reply))
    assert isinstance(found, Tensor)
    return found


def latents(count: int = 1) -> Tensor:
    return torch.randn(count, 2, 3, 5, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def decoded(codec: Codec, raw: Tensor) -> Tensor:
    return codec.model.decode(raw).sample.clamp(-1, 1)


@pytest.mark.parametrize("model", ["kl", "vq"])
def test_float_pixels_are_encoded_as_they_are(service: Service, kl: Codec, vq: Codec, model: str) -> None:
    images = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1  # of no 8-bit levels
    codec = {"kl": kl, "vq": vq}[model]
    assert torch.equal(remote_encode(service, images, model=model), codec.encode_tensor(images))
    rounded = to_tensor(from_tensor(images[0]))[None]
    assert not torch.equal(kl.encode_tensor(rounded)[0], kl.encode_tensor(images)[0])  # or nothing is shown


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_comes_back_as_the_stock_model_decodes_it(service: Service, kl: Codec, dtype: torch.dtype) -> None:
    scaled = latents(2).to(dtype)
    options = {"scaling_factor": SCALING, "shift_factor": SHIFT, "output_type": "pt", "return_type": "pt"}
    found = remote_decode(service, scaled, **options)
    expected = decoded(kl, scaled.float() / SCALING + SHIFT)
    assert found.dtype == dtype
    assert found.shape == (2, 3, 12, 20)
    assert torch.allclose(found.float(), expected, atol={2: 8e-3}.get(dtype.itemsize, 1e-5))


def test_levels_come_back_as_images(service: Service, kl: Codec, grey: Codec) -> None:
    options = {"output_type": "pt", "partial_postprocess": True, "do_scaling": False}
    found = remote_decode(service, latents(2), **options)
    for image, expected in zip(found, from_tensor(decoded(kl, latents(2))), strict=True):
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1
    one = remote_decode(service, latents(), model="grey", **options)
    assert isinstance(one, Image.Image)
    expected = from_tensor(decoded(grey, latents()))[0].repeat(3, axis=2)
    assert np.abs(np.asarray(one).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("model", ["kl", "grey"])
def test_an_image_file_comes_back(service: Service, request: pytest.FixtureRequest, kind: str, model: str) -> None:
    found = remote_decode(service, latents(), model=model, image_format=kind, do_scaling=False)
    expected = from_tensor(decoded(request.getfixturevalue(model), latents()))[0]
    if kind == "jpg":
        expected = np.asarray(Image.open(io.BytesIO(saved(expected, "JPEG", quality=95)))).reshape(expected.shape)
    difference = np.abs(np.asarray(found).astype(int) - expected)
    assert difference.mean() < 0.5  # a value that lies between two levels may be rounded otherwise


def test_without_factors_the_models_own_are_taken_where_scaling_is_asked_for(kl: Codec) -> None:
    own = Codec(kl.model, name="own", precision="fp32")
    own.normalisation = scalars(SCALING, SHIFT)
    with closing(Service({"kl": own})) as service:
        found = remote_decode(service, latents(), do_scaling=True, output_type="pt", return_type="pt")
    assert torch.allclose(found, decoded(kl, latents() / SCALING + SHIFT), atol=1e-5)


@pytest.mark.parametrize("model", ["kl", "grey"])
def test_an_image_is_encoded_to_the_mode_of_its_posterior(
    service: Service, request: pytest.FixtureRequest, model: str
) -> None:
    codec = request.getfixturevalue(model)
    image = pixels(12, 20, codec.channels)
    found = remote_encode(service, to_pil(image), model=model, scaling_factor=SCALING, shift_factor=SHIFT)
    with torch.no_grad():
        mode = codec.model.encode(to_tensor(image)[None]).latent_dist.mode()
    assert torch.allclose(found, (mode - SHIFT) * SCALING, atol=1e-5)


def test_an_image_file_waits_as_levels(service: Service) -> None:
    images = images_of(RemoteEncode(saved(pixels(12, 20), "PNG")), service.models()[0], service.limits)
    assert [image.dtype for image in images] == [np.uint8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_tensor_of_pixels_is_encoded_as_its_image(service: Service, kl: Codec, dtype: torch.dtype) -> None:
    images = torch.stack([to_tensor(pixels(12, 20, seed=seed)) for seed in (0, 1)])
    found = remote_encode(service, images.to(dtype))
    with torch.no_grad():
        mode = kl.model.encode(images).latent_dist.mode()
    assert found.dtype == dtype
    assert torch.allclose(found.float(), mode, atol=1e-5 if dtype == torch.float32 else 2e-3)


def test_what_was_encoded_is_decoded(service: Service, vq: Codec) -> None:
    image = pixels(12, 20)
    vectors = remote_encode(service, to_pil(image), model="vq")
    found = remote_decode(service, vectors, model="vq", image_format="png", do_scaling=False)
    assert np.abs(np.asarray(found).astype(int) - vq.reconstruct([image])[0]).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(12, 20), (12, 16), (24, 8), (999, 1)])
def test_height_and_width_change_nothing_where_the_shape_says_it(service: Service, height: int, width: int) -> None:
    """SD.Next sends both with latents [1,c,h,w], and not always those of the latents."""
    options = {"output_type": "pt", "return_type": "pt", "do_scaling": False}
    told = remote_decode(service, latents(), height=height, width=width, **options)
    assert torch.equal(told, remote_decode(service, latents(), **options))


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 31), (24, 8)])
def test_packed_latents_are_those_that_flux_unpacks(service: Service, kl: Codec, height: int, width: int) -> None:
    """The documented call: what FluxPipeline gives with output_type latent, and its own unpacking as the oracle."""
    exact = Codec(kl.model, name="exact", precision="exact")
    rows, columns = 2 * (height // 8), 2 * (width // 8)
    given = torch.randn(2, 2, rows, columns, generator=torch.Generator().manual_seed(3))
    # diffusers has both for its pipelines alone.
    packed = FluxPipeline._pack_latents(given, 2, 2, rows, columns)
    unpacked = FluxPipeline._unpack_latents(packed, height, width, vae_scale_factor=4)
    options = {"scaling_factor": SCALING, "shift_factor": SHIFT, "output_type": "pt", "return_type": "pt"}
    with closing(Service({"kl": exact})) as served:
        found = remote_decode(served, packed, height=height, width=width, **options)
    stock = torch.cat([decoded(kl, one) for one in (unpacked / SCALING + SHIFT).split(1)])
    assert torch.equal(unpacked, given)
    assert torch.equal(found, stock)


GOOD = {"shape": ["1", "2", "3", "5"], "dtype": "float32"}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"shape": []}, BadRequest, "shape must be a list of whole numbers, .*, got none"),
        ({"shape": ["1", "2"]}, BadRequest, r"\[B, 2, h, w\]"),
        ({"shape": ["1", "4", "3", "5"]}, BadRequest, r"\[B, 2, h, w\]"),
        ({"shape": ["1", "2", "0", "5"]}, BadRequest, r"\[B, 2, h, w\]"),
        ({"shape": ["1", "2", "-3", "5"]}, BadRequest, "shape must be a list of whole numbers"),
        ({"shape": ["1", "2", "3e3", "5"]}, BadRequest, "shape must be a list of whole numbers"),
        ({"shape": ["1"] * 9}, BadRequest, "shape must be a list of whole numbers"),
        ({"shape": ["1", "2", "9" * 30, "5"]}, TooLarge, "larger than any"),
        ({"shape": ["1", "2", "999999", "999999"]}, TooLarge, "at most"),
        ({"shape": ["100", "2", "3", "5"], "output_type": "pt"}, TooLarge, "100 images"),
        ({"shape": ["2", "2", "3", "5"]}, BadRequest, "one image"),
        ({"shape": ["1", "2", "3", "6"]}, BadRequest, "has 144 bytes, got 120"),
        ({"dtype": "float64"}, BadRequest, "dtype must be float32, float16 or bfloat16"),
        ({"dtype": ""}, BadRequest, "dtype must be float32, float16 or bfloat16"),
        ({"dtype": "uint8"}, BadRequest, "dtype must be float32, float16 or bfloat16"),
        ({"output_type": "mp4"}, BadRequest, "output_type must be pil or pt, got 'mp4'"),
        ({"image_format": "gif"}, BadRequest, "image_format must be jpg or png"),
        ({"scaling_factor": "0"}, BadRequest, "scaling_factor must be a finite number above 0, got '0'"),
        ({"scaling_factor": "nan"}, BadRequest, "must be a finite number above 0"),
        ({"scaling_factor": "much"}, BadRequest, "must be a finite number above 0"),
        ({"scaling_factor": "1e-45"}, BadRequest, "not finite"),
        ({"shift_factor": "inf"}, BadRequest, "shift_factor must be a finite number, got 'inf'"),
        ({"do_scaling": "perhaps"}, BadRequest, "do_scaling must be true or false"),
        ({"height": "16.5", "width": "16"}, BadRequest, "height must be a whole number of pixels, got '16.5'"),
        ({"height": "-16"}, BadRequest, "height must be a whole number"),
        ({"width": "9" * 30}, BadRequest, "width must be a whole number"),
        ({"shape": ["1", "2", "15"]}, BadRequest, "packed latents, which need height and width in pixels"),
        ({"shape": ["1", "2", "15"], "height": "16"}, BadRequest, "packed latents, which need height and width"),
        (
            {"shape": ["1", "4", "8"], "height": "16", "width": "24"},
            BadRequest,
            r"packed latents of 24x16 pixels have the shape \[1, 6, 8\] for this model, got \[1, 4, 8\]",
        ),
        ({"shape": ["1", "4", "16"], "height": "16", "width": "16"}, BadRequest, r"\[1, 4, 8\] .* got \[1, 4, 16\]"),
        ({"shape": ["1", "0", "8"], "height": "7", "width": "7"}, BadRequest, r"\[B, 2, h, w\]"),
        ({"shape": ["1", "6", "8"], "height": "16", "width": "24"}, BadRequest, "has 192 bytes, got 120"),
        (
            {"shape": ["1", "1000000", "8"], "height": "8000", "width": "8000"},
            TooLarge,
            "at most",
        ),
    ],
    ids=str,
)
def test_every_parameter_is_checked(
    service: Service, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    fields = {**GOOD, **changes}
    query = [(name, each) for name, value in fields.items() for each in (value if isinstance(value, list) else [value])]
    data = latents().numpy().tobytes()
    with pytest.raises(error, match=words):
        service.decode_tensor(RemoteDecode.from_query(query, data))


def test_a_shape_may_be_one_list(service: Service) -> None:
    query = [("shape", "[1, 2, 3, 5]"), ("dtype", "float32")]
    assert service.decode_tensor(RemoteDecode.from_query(query, latents().numpy().tobytes())).data[:2] == b"\xff\xd8"


def test_values_that_are_not_finite_are_refused(service: Service) -> None:
    for value in (float("nan"), float("inf")):
        data = torch.full((1, 2, 3, 5), value).numpy().tobytes()
        with pytest.raises(BadRequest, match="not finite"):
            service.decode_tensor(RemoteDecode(data, (1, 2, 3, 5), "float32"))
    data = torch.full((1, 3, 8, 8), float("nan")).numpy().tobytes()
    with pytest.raises(BadRequest, match="not finite"):
        service.encode_tensor(RemoteEncode(data, (1, 3, 8, 8), "float32"))


def test_pixels_have_a_range_and_channels(service: Service) -> None:
    with pytest.raises(BadRequest, match="up to 255"):
        service.encode_tensor(RemoteEncode(torch.full((1, 3, 8, 8), 255.0).numpy().tobytes(), (1, 3, 8, 8), "float32"))
    with pytest.raises(BadRequest, match=r"\[B, 3, h, w\]"):
        service.encode_tensor(RemoteEncode(torch.zeros(1, 1, 8, 8).numpy().tobytes(), (1, 1, 8, 8), "float32"))
    with pytest.raises(BrokenUpload):
        service.encode_tensor(RemoteEncode(b""))


def test_limits_and_models_are_those_of_the_service(kl: Codec) -> None:
    with closing(Service({"kl": kl}, limits=ServiceLimits(pixels=200))) as service:
        with pytest.raises(TooLarge, match="20x12"):
            service.decode_tensor(RemoteDecode(latents().numpy().tobytes(), (1, 2, 3, 5), "float32"))
        with pytest.raises(UnknownModel):
            service.decode_tensor(RemoteDecode(b"", (1, 2, 3, 5), "float32"), model="../kl")
