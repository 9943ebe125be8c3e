"""The codec against the stock models, bit for bit where it says exact; any sizes together; what it refuses."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.io.image import Pixels, from_tensor, to_tensor
from latent_ae.io.latent_file.latents import Latents, WrongEncoder, from_bytes, read_latents, to_bytes
from latent_ae.models import Autoencoder, build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.models.parts import encoder_identity
from latent_ae.randomness import sample_noise
from tests.inference.side_runs import runs
from tests.program.forked import fork
from tests.program.running import environment

CODES = 16


@cache
def stock(*, vq: bool = False, seed: int = 0) -> Autoencoder:
    """A factor of 4, attention in the middle; shared, so for reading alone."""
    config = ModelConfig(
        preset="tiny", image_channels=3, block_out_channels=(4, 8, 8), mid_block_add_attention=True, latent_channels=3
    )
    bottleneck = VQConfig(codebook_size=CODES, code_channels=2) if vq else None
    model = build_autoencoder(config, bottleneck, seed=seed, resolution=16)
    if vq:
        with torch.no_grad():  # codes that are nearest somewhere
            vectors = model.encode(as_pixels(image(16, 16, seed=99))).latents
            model.quantize.embedding.weight.copy_(vectors[0].flatten(1).T)
    return model.eval()


@cache
def exact(*, vq: bool = False) -> Codec:
    return Codec(stock(vq=vq), name="m", precision="exact", tile=None)


def image(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_pixels(*images: Pixels) -> Tensor:
    return torch.stack([to_tensor(each) for each in images])


SIZES = [(16, 24), (7, 5), (16, 24), (33, 4), (1, 1), (5, 8), (16, 23)]


def test_exact_is_the_stock_model_bit_for_bit() -> None:
    model, codec, pictures = stock(), exact(), [image(16, 24), image(8, 8, seed=1)]
    assert isinstance(model, AutoencoderKL)
    for picture, latents, pixels in zip(
        pictures, codec.encode(pictures, logvar=True), codec.reconstruct(pictures), strict=True
    ):
        with torch.no_grad():
            posterior = model.encode(as_pixels(picture)).latent_dist
            decoded = model.decode(posterior.mode()).sample
        assert latents.kind == "mean"
        assert torch.equal(latents.tensor, posterior.mode())
        assert torch.equal(latents.logvar, posterior.logvar)
        assert np.array_equal(pixels, from_tensor(decoded)[0])
        assert torch.equal(codec.decode_tensor(latents.tensor), decoded.clamp(-1, 1))
        assert torch.equal(codec.encode_tensor(as_pixels(picture)), posterior.mode())


def test_exact_codes_are_those_of_the_stock_model() -> None:
    model, codec, pictures = stock(vq=True), exact(vq=True), [image(16, 24), image(16, 24, seed=1)]
    assert isinstance(model, VQModel)
    assert codec.codebook is not None
    codes = torch.cat([latents.tensor for latents in codec.encode(pictures)])
    assert codes.shape == (2, 4, 6)
    assert len(codes.unique()) > CODES / 2
    decoded = codec.decode_tensor(codec.codebook.vectors(codes))
    for picture, latents, its_codes, pixels in zip(pictures, codec.encode(pictures), codes, decoded, strict=True):
        with torch.no_grad():
            vectors = model.encode(as_pixels(picture)).latents
            expected = model.quantize(vectors)[2][2].view(1, 4, 6)
            entries = model.quantize.get_codebook_entry(expected.flatten(), (1, 4, 6, 2))
            stock_pixels = model.decode(entries, force_not_quantize=True).sample
            # Stock decoding quantises again, which leaves the vectors of codes what they are.
            assert torch.equal(model.decode(entries).sample, stock_pixels)
        assert latents.kind == "vq_indices"
        assert torch.equal(its_codes[None], expected)
        assert torch.equal(latents.tensor, expected)
        assert torch.equal(codec.vectors(latents), entries)
        assert torch.equal(pixels[None], stock_pixels.clamp(-1, 1))
        assert torch.equal(codec.decode_tensor(vectors), pixels[None])
        assert torch.equal(codec.encode_tensor(as_pixels(picture)), entries)


@pytest.mark.parametrize("vq", [False, True])
def test_in_exact_images_of_mixed_sizes_do_not_know_of_one_another(vq: bool) -> None:
    codec = exact(vq=vq)
    pictures = [image(*size, seed=place) for place, size in enumerate(SIZES)]
    together = codec.encode(pictures, logvar=True)
    for picture, latents, pixels in zip(pictures, together, codec.decode(together), strict=True):
        (alone,) = codec.encode([picture], logvar=True)
        assert (alone.height, alone.width) == picture.shape[:2]
        assert torch.equal(latents.tensor, alone.tensor)
        assert vq or torch.equal(latents.logvar, alone.logvar)
        assert pixels.shape == picture.shape
        assert np.array_equal(pixels, codec.reconstruct([picture])[0])


@pytest.mark.parametrize("vq", [False, True])
def test_in_fp32_batches_give_what_images_alone_give_but_for_rounding(
    vq: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, alone = Codec(stock(vq=vq), name="m", precision="fp32"), exact(vq=vq)
    pictures = [image(*size, seed=place) for place, size in enumerate(SIZES)]
    expected, ran = alone.encode(pictures), runs(monkeypatch)
    got = codec.encode(pictures)
    assert sorted(run.shape[0] for run in ran) == [1, 1, 2, 3]  # 7x5 and 5x8 are padded to 8x8, 16x23 to 16x24
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.tensor, other.tensor)
        assert (one.height, one.width) == (other.height, other.width)


def test_many_images_go_through_in_batches_of_a_bounded_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, ran = Codec(stock(), name="m", precision="fp32"), runs(monkeypatch)
    vectors = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert codec.decode_tensor(vectors).shape == (5, 3, 256, 256)
    assert [run.shape[0] for run in ran] == [4, 1]  # 512 x 512 pixels


def test_a_file_of_several_images_decodes_to_all_of_them() -> None:
    codec = exact()
    latents = [codec.encode([image(15, 22, seed=place)])[0] for place in range(3)]
    both = replace(latents[0], tensor=torch.cat([latents[0].tensor, latents[1].tensor]))
    decoded = codec.decode([both, latents[2]])
    assert [pixels.shape for pixels in decoded] == [(15, 22, 3)] * 3
    assert all(np.array_equal(a, b) for a, b in zip(decoded, codec.decode(latents), strict=True))


def test_a_draw_belongs_to_the_seed_and_the_images_place() -> None:
    codec = exact()
    pictures = [image(8, 12), image(16, 4, seed=1), image(8, 12)]
    drawn = codec.encode(pictures, seed=7)
    for place, (latents, sample) in enumerate(zip(codec.encode(pictures, logvar=True), drawn, strict=True)):
        noise = sample_noise(7, place, 1, tuple(latents.tensor.shape[1:]))
        expected = latents.tensor + torch.exp(0.5 * latents.logvar.clamp(-30, 20)) * noise
        assert sample.kind == "sample"
        assert torch.equal(sample.tensor, expected)
    assert torch.equal(codec.encode(pictures[:1], seed=7)[0].tensor, drawn[0].tensor)
    assert not torch.equal(drawn[0].tensor, drawn[2].tensor)


def test_a_posterior_without_spread_is_neither_drawn_from_nor_kept() -> None:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    with torch.no_grad():
        model.quant_conv.weight[2:] = 0
        model.quant_conv.bias[2:] = -30
    codec = Codec(model, name="m", precision="exact")
    (latents,) = codec.encode([image(4, 4)[:, :, :1]], seed=1, logvar=True)
    assert latents.kind == "mean"
    assert latents.logvar is None


def test_the_share_that_is_done_rises_to_one() -> None:
    shares: list[float] = []
    codec = exact()
    pictures = [image(*size) for size in SIZES]
    codec.reconstruct(pictures, tick=shares.append)
    assert len(shares) == 2 * len(SIZES)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert codec.reconstruct([]) == []


def test_what_it_gives_can_go_into_a_graph() -> None:
    codec = exact()
    (latents,) = codec.encode([image(8, 8)])
    weight = torch.ones((), requires_grad=True)
    (weight * latents.tensor + codec.decode_tensor(latents.tensor).mean()).sum().backward()
    assert weight.grad is not None


def test_the_model_stays_what_it_was() -> None:
    model = stock()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    codec = Codec(model, name="m", precision="bf16")
    assert codec.identity == encoder_identity(model) == exact().identity
    assert all(
        torch.equal(tensor, before[name]) and tensor.is_contiguous() for name, tensor in model.state_dict().items()
    )


def kl_latents(**changes: object) -> Latents:
    return replace(exact().encode([image(8, 8)])[0], **changes)


def codes_latents(code: int) -> Latents:
    return kl_latents(kind="vq_indices", tensor=torch.full((1, 2, 2), code))


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: exact().encode([image(4, 4), image(4, 4)[:, :, :1]]), "1 channels, the model m takes 3"),
        (lambda: exact().decode([kl_latents(tensor=torch.zeros(1, 4, 2, 2))]), "4 channels, the model m 3"),
        (lambda: exact().decode_tensor(torch.zeros(1, 2, 4, 4)), "2 channels, the model m 3"),
        (lambda: exact().decode([kl_latents(height=9)]), "2x2 positions of 4 pixels for an image of 8x9"),
        (lambda: exact().decode([kl_latents(factor=8, height=16, width=16)]), "do not cover it"),
        (lambda: exact().vectors(codes_latents(0)), "no codebook"),
        (lambda: exact(vq=True).vectors(codes_latents(CODES)), "codebook from 0 to 15"),
        (lambda: exact(vq=True).vectors(codes_latents(-1)), "from -1 to -1"),
        (lambda: Codec(stock(), name="m", tile=15), "take 16 pixels or more"),
        (lambda: Codec(stock(), name="m", precision="fp8"), "unknown precision 'fp8': take one of auto, exact"),
    ],
)
def test_what_is_not_the_models_is_refused(work, message: str) -> None:
    with pytest.raises(UserError, match=message):
        work()


def test_latents_of_another_encoder_are_refused_with_both_identities() -> None:
    codec, other = exact(), Codec(stock(seed=1), name="other", precision="exact")
    latents = other.encode([image(8, 8)])
    with pytest.raises(WrongEncoder, match=f"{other.identity[:16]}.*{codec.identity[:16]}"):
        codec.decode(latents)


def test_values_that_are_not_finite_are_an_error_and_not_an_image() -> None:
    model = build_autoencoder(ModelConfig(preset="tiny", image_channels=3), seed=0, resolution=16)
    with torch.no_grad():
        model.decoder.conv_out.bias.fill_(torch.nan)
    codec = Codec(model, name="m", precision="fp32")
    with pytest.raises(UserError, match="decoder of m gives values that are not finite in fp32"):
        codec.reconstruct([image(8, 8)])


def decode_there(argv: list[str]) -> None:
    """Decode the three latent files of a folder, as a process of its own."""
    folder = Path(argv[0])
    codec = Codec.load(str(folder / "model"), precision="exact", tile=32)
    np.savez(
        folder / "images.npz", *codec.decode([read_latents(folder / f"{place}.safetensors") for place in range(3)])
    )


@pytest.mark.slow  # starts a process
@pytest.mark.parametrize("vq", [False, True])
def test_a_latent_file_decodes_in_another_process_to_the_direct_reconstruction(tmp_path: Path, vq: bool) -> None:
    pictures = [image(16, 24), image(13, 7, seed=1), image(40, 90, seed=2)]
    codec = Codec(stock(vq=vq), name="m", precision="exact", tile=32)
    stock(vq=vq).save_pretrained(tmp_path / "model")
    for place, latents in enumerate(codec.encode(pictures)):
        (tmp_path / f"{place}.safetensors").write_bytes(to_bytes(latents))
    there = fork("tests.inference.test_codec:decode_there", [str(tmp_path)], environment()).finished()
    assert there.returncode == 0, there.stderr
    written = np.load(tmp_path / "images.npz")
    for place, pixels in enumerate(codec.reconstruct(pictures)):
        assert np.array_equal(written[f"arr_{place}"], pixels)


def test_a_latent_file_loses_nothing() -> None:
    codec = exact()
    (latents,) = codec.encode([image(13, 7)], seed=3)
    assert np.array_equal(codec.decode([from_bytes(to_bytes(latents))])[0], codec.decode([latents])[0])
