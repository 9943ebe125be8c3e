"""What the app asks: every answer against the codec alone, every refusal by its type."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latent_ae.evaluation.metrics.quality import psnr
from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor, to_tensor
from latent_ae.io.latent_file.latents import Compute, from_bytes, to_bytes
from latent_ae.service.errors import (
    BadLatents,
    BadRequest,
    BrokenUpload,
    TooLarge,
    UnknownModel,
    WrongModel,
)
from latent_ae.service.inspection import difference_map
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service
from tests.image_files import CASES

from .conftest import CODES, closing, pixels, png, tiny

IMAGE = pixels(9, 14)


# ------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("model", ["kl", "vq", "grey"])
def test_an_image_goes_to_a_latent_file_and_back(
    service: Service, codecs: dict[str, Codec], model: str, tmp_path: Path
) -> None:
    file = tmp_path / "my photo.png"
    file.write_bytes(png(IMAGE))
    encoded = service.encode(file, model=model)
    assert encoded.file_name == "my-photo.safetensors"
    latents = from_bytes(encoded.file)
    assert (latents.height, latents.width, latents.model) == (9, 14, model)
    assert len(latents.sources) == 1

    codec = codecs[model]
    original = service.reconstruct(file, model=model).original
    assert original.shape == (9, 14, codec.channels)
    assert torch.equal(latents.tensor, codec.encode([original])[0].tensor)
    decoded = service.decode(encoded.file)  # whichever has the encoder
    assert decoded.model == model
    assert np.array_equal(decoded.images[0], codec.reconstruct([original])[0])


def test_how_an_image_was_read_is_said_with_the_answer(service: Service) -> None:
    case = CASES["Adobe RGB, PNG"]
    remarks = ("had colours of Adobe RGB (1998), which were converted to sRGB",)
    made = service.reconstruct(case.data)
    assert (made.encoded.remarks, service.encode(case.data).remarks) == (remarks, remarks)
    assert service.encode(png(IMAGE)).remarks == ()


def test_a_path_of_the_server_is_in_no_answer(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "secret" / "photos" / "model")
    with closing(Service.load([str(tmp_path / "secret" / "photos" / "model")], precision="fp32")) as service:
        answers = [service.models(), service.encode(png(IMAGE)), service.reconstruct(png(IMAGE))]
        answers += [service.inspect(png(IMAGE)), service.sample(count=1, size=8)]
        assert service.encode(png(pixels(4, 700))).latents.compute == Compute("fp32")  # whole, unless asked otherwise
    assert service.models()[0].id == "photos"
    assert str(tmp_path) not in repr(answers)
    assert str(tmp_path).encode() not in answers[1].file


def test_a_draw_from_the_posterior_follows_from_its_seed(service: Service, kl: Codec) -> None:
    one, same, other = (service.encode(png(IMAGE), seed=seed).latents for seed in (3, 3, 4))
    assert one.kind == "sample"
    assert torch.equal(one.tensor, same.tensor)
    assert not torch.equal(one.tensor, other.tensor)
    assert torch.equal(one.tensor, kl.encode([IMAGE], seed=3)[0].tensor)


def test_a_file_holds_what_is_asked_for(service: Service) -> None:
    half = from_bytes(service.encode(png(IMAGE), dtype="float16", logvar=True).file)
    assert half.tensor.dtype == torch.float16
    assert half.logvar is not None
    with pytest.raises(BadRequest, match="dtype must be float32 or float16 or bfloat16"):
        service.encode(png(IMAGE), dtype="float64")  # type: ignore[arg-type]


def test_a_reconstruction_has_its_measures_and_sizes(service: Service) -> None:
    upload = png(IMAGE)
    found = service.reconstruct(upload, baselines=True)
    both = [to_tensor(image)[None] for image in (found.reconstructed, IMAGE)]
    assert np.array_equal(found.original, IMAGE)
    assert found.metrics["PSNR"] == pytest.approx(float(psnr(*both)), abs=1e-4)
    assert found.metrics["LPIPS"] is None
    assert "LPIPS" in found.notes
    values = 2 * 3 * 4
    assert [(size.what, size.bytes) for size in found.sizes] == [
        ("upload", len(upload)),
        ("latents in float32", 4 * values),
        ("latents in float16", 2 * values),
    ]
    assert found.sizes[2].bits_per_pixel == pytest.approx(16 * values / (9 * 14))
    assert (found.encoded.latents.compute, found.decoding) == (Compute("fp32"), Compute("fp32"))
    assert found.seam_db is None
    assert [each.name for each in found.baselines] == ["JPEG", "WebP"]
    assert not found.baselines[0].reached  # 48 bytes
    assert found.baselines[0].quality == 1
    assert [each.bytes for each in service.baselines(found)] == [each.bytes for each in found.baselines]
    coded = service.reconstruct(upload, model="vq").sizes[1]
    assert (coded.what, coded.bytes) == ("codes of 4 bits", 6)


def test_a_baseline_has_at_most_the_bytes_of_the_smallest_latents(service: Service) -> None:
    found = service.reconstruct(png(pixels(120, 160)), baselines=True)
    for each in found.baselines:
        assert each.reached == (each.bytes <= 2 * 2 * 30 * 40)
        assert each.image.shape == found.original.shape
        assert set(each.metrics) == set(found.metrics)
    assert found.baselines[1].reached


def test_a_large_image_goes_through_in_tiles_and_says_so() -> None:
    codec = Codec(tiny(), name="tiled", precision="fp32", tile=64)
    with closing(Service({"tiled": codec})) as service:
        shares: list[float] = []
        found = service.reconstruct(png(pixels(100, 70)), tick=shares.append)
    assert found.decoding == found.encoded.latents.compute == Compute("fp32", 64, found.decoding.tiles)
    assert found.decoding.tiles > 1
    assert from_bytes(found.encoded.file).compute == found.decoding
    assert found.seam_db is not None
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_a_difference_takes_sensible_numbers(service: Service) -> None:
    found = service.reconstruct(png(IMAGE))
    assert (difference_map(*found.previews, tolerance=255, gain=1) == 0).mean() > 0.9
    for tolerance, gain in ((-1, 1), (256, 1), (float("nan"), 1), (1, -1), (1, 1e9), (1, float("inf"))):
        with pytest.raises(BadRequest):
            difference_map(*found.previews, tolerance=tolerance, gain=gain)


def test_channels_and_codes_are_shown(service: Service) -> None:
    encoded = service.encode(png(IMAGE))
    assert [image.shape for image in service.channel_images(encoded.latents, model="kl")] == [(12, 16, 1)] * 2
    assert len(service.channel_images(encoded.latents)) == 2
    assert service.channel_images(service.encode(png(IMAGE), model="vq").latents)[0].shape == (12, 16, 3)


def test_draws_follow_from_their_seed_and_come_with_a_warning(service: Service) -> None:
    found = service.sample(count=3, seed=5, size=18)
    assert [image.shape for image in found.images] == [(16, 16, 3)] * 3
    assert all(
        np.array_equal(a, b) for a, b in zip(found.images, service.sample(count=3, seed=5, size=16).images, strict=True)
    )
    assert "not measured" in found.note
    assert "no prior" in service.sample(model="vq", count=1).note
    assert service.sample(count=1).images[0].shape[0] == 16  # the side of the training images
    calm = service.sample(count=2, temperature=0.0, size=8).images
    assert np.array_equal(calm[0], calm[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"count": 65},
        {"count": 2.5},
        {"count": True},
        {"count": "16"},
        {"seed": -1},
        {"temperature": float("nan")},
        {"temperature": -1},
        {"size": 0},
        {"size": 10**9},
    ],
    ids=str,
)
def test_a_draw_takes_sensible_numbers(service: Service, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(wrong))):
        service.sample(**wrong)


def test_draws_have_no_more_pixels_than_an_image(service: Service) -> None:
    with pytest.raises(TooLarge, match="64 images of 4096x4096"):
        service.sample(count=64, size=4096)


def test_the_ways_between_images_start_and_end_at_them(service: Service, kl: Codec) -> None:
    images = [pixels(12, 16, seed=seed) for seed in range(4)]
    ends = [kl.reconstruct([image])[0] for image in images]
    line = service.interpolate(png(images[0]), png(images[1]), steps=5).images
    assert len(line) == 5
    assert np.array_equal(line[0], ends[0])
    assert np.array_equal(line[-1], ends[1])
    middle = torch.lerp(*(kl.vectors(kl.encode([image])[0])[0] for image in images[:2]), 0.5)
    assert np.array_equal(line[2], from_tensor(kl.decode_tensor(middle[None]))[0])

    square = service.interpolate_grid([png(image) for image in images], side=3).images
    assert len(square) == 9
    for place, end in zip((0, 2, 6, 8), ends, strict=True):
        assert np.array_equal(square[place], end)


def test_images_on_a_way_take_the_size_of_the_first(service: Service) -> None:
    line = service.interpolate(png(pixels(12, 16)), png(pixels(40, 30)), steps=2, model="vq")
    assert [image.shape for image in line.images] == [(12, 16, 3)] * 2
    assert "between two codes" in line.note
    for images in ([png(IMAGE)] * 3, []):
        with pytest.raises(BadRequest, match="4 images"):
            service.interpolate_grid(images)


def test_an_inspection_looks_at_the_models_own_latents(service: Service, kl: Codec) -> None:
    found = service.inspect(png(IMAGE))
    latents = kl.encode([IMAGE])[0].tensor[0]
    assert found.channels[1]["image_mean"] == pytest.approx(float(latents[1].mean()), rel=1e-5)
    assert found.channels[0]["image_kl_nats"] is not None
    assert found.channels[0]["std"] is None
    coded = service.inspect(png(IMAGE), model="vq")
    assert sum(coded.code_counts or ()) == 12
    assert len(coded.code_counts or ()) == CODES


# ----------------------------------------------------------------------------------------------------------- refusals


def test_a_model_is_no_path_and_latents_belong_to_their_model(service: Service, grey: Codec) -> None:
    for call in (service.encode, service.reconstruct, service.inspect):
        with pytest.raises(UnknownModel, match="kl, vq, grey"):
            call(png(IMAGE), model="/etc/passwd")
    file = service.encode(png(IMAGE)).file
    with pytest.raises(WrongModel, match="decode them with kl"):
        service.decode(file, model="vq")
    stranger = dataclasses.replace(from_bytes(file), encoder="0" * 64)
    with pytest.raises(WrongModel, match="0000000000000000"):
        service.decode(to_bytes(stranger))


def test_latents_that_lie_about_their_encoder_are_refused(service: Service, vq: Codec, grey: Codec) -> None:
    latents = from_bytes(service.encode(png(IMAGE)).file)
    three = torch.zeros(1, 3, 3, 4)
    lies = [
        dataclasses.replace(latents, encoder=vq.identity),
        dataclasses.replace(latents, tensor=three),
        dataclasses.replace(latents, factor=8, height=20, width=30),
        dataclasses.replace(from_bytes(service.encode(png(IMAGE), model="vq").file), encoder=grey.identity),
        dataclasses.replace(from_bytes(service.encode(png(IMAGE), model="vq").file), codebook_size=300),
    ]
    for lie in lies:
        with pytest.raises(BadLatents, match="form"):
            service.decode(to_bytes(lie))
        with pytest.raises(BadLatents, match="form"):
            service.channel_images(lie)


def test_latents_that_decode_to_nothing_finite_are_refused(service: Service) -> None:
    latents = from_bytes(service.encode(png(IMAGE)).file)
    huge = dataclasses.replace(latents, tensor=torch.full_like(latents.tensor, 3e38))
    with pytest.raises(BadLatents, match="not finite"):
        service.decode(to_bytes(huge))


def test_latents_are_bounded_as_images_are(kl: Codec) -> None:
    with closing(Service({"kl": kl})) as service:
        file = service.encode(png(pixels(40, 40))).file
        several = dataclasses.replace(from_bytes(file), tensor=torch.zeros(3, 2, 10, 10), sources=())
        assert len(service.decode(to_bytes(several)).images) == 3
    with closing(Service({"kl": kl}, limits=ServiceLimits(pixels=4_000, side=50))) as service:
        assert service.decode(file).images[0].shape == (40, 40, 3)
        with pytest.raises(TooLarge, match="3 images of 40x40"):
            service.decode(to_bytes(several))
        long = dataclasses.replace(several, tensor=torch.zeros(1, 2, 1, 13), height=4, width=50)
        with pytest.raises(TooLarge, match="52x4"):  # their padding counts
            service.decode(to_bytes(long))


def test_broken_files_are_refused_by_every_endpoint(service: Service) -> None:
    broken = png(IMAGE)[:60]
    for call in (service.encode, service.reconstruct, service.inspect):
        with pytest.raises(BrokenUpload):
            call(broken)
    with pytest.raises(BrokenUpload):
        service.interpolate(png(IMAGE), broken)
    for file in (png(IMAGE), b"x", bytes(1000)):
        with pytest.raises(BadLatents):
            service.decode(file)
    with pytest.raises(BadRequest, match="bytes or a Path"):
        service.encode("photo.png")  # type: ignore[arg-type]
