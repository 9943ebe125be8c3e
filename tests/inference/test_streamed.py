"""A side in strips gives what it gives for the whole image at once."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from latent_ae.inference import batching, fused, strips, winograd
from latent_ae.inference.codec import Codec
from latent_ae.inference.fused import fuse
from latent_ae.inference.memory import peak_bytes
from latent_ae.inference.sides import DecoderSide, EncoderSide
from latent_ae.inference.streamed import StreamedSide, streamed
from latent_ae.inference.winograd import WinogradConv
from latent_ae.models import Autoencoder
from latent_ae.randomness import torch_generator


def kl(**changes: object) -> AutoencoderKL:
    """With a shortcut at a change of width, and attention."""
    torch.manual_seed(0)
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 16),
        "layers_per_block": 1,
        "latent_channels": 3,
        "norm_num_groups": 4,
    }
    return AutoencoderKL(**{**settings, **changes}).eval()


def vq() -> VQModel:
    """With attention inside of blocks."""
    torch.manual_seed(0)
    return VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        latent_channels=3,
        num_vq_embeddings=32,
        norm_num_groups=4,
    ).eval()


MODELS = {
    "kl": kl,
    "kl of one layer width": lambda: kl(block_out_channels=(8, 8, 8)),
    "kl without 1x1 convolutions and attention": lambda: kl(
        use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    ),
    "vq": vq,
}


def sides(model: Autoencoder, height: int, width: int) -> list[tuple[EncoderSide | DecoderSide, torch.Tensor]]:
    """Both, each with an input for an image of this size."""
    pixels = torch.rand(1, 3, height, width, generator=torch_generator(0, "pixels")) * 2 - 1
    encoder, decoder = EncoderSide(model), DecoderSide(model)
    with torch.no_grad():
        latents = encoder(pixels)[:, : encoder.channels]
    return [(encoder, pixels), (decoder, latents)]


def in_strips(side: EncoderSide | DecoderSide, inputs: torch.Tensor, kept_share: float | None = None) -> torch.Tensor:
    module = streamed(side)
    assert isinstance(module, StreamedSide)
    if kept_share is not None:
        module.kept_share = kept_share
    with torch.no_grad():
        return module(inputs.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("size", [(64, 24), (24, 64), (132, 4), (4, 132), (4, 4)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_as_near_to_float64_as_the_whole_image(name: str, size: tuple[int, int], monkeypatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)  # strips of 8 rows
    for side, inputs in sides(MODELS[name](), *size):
        with torch.no_grad():
            exact, whole = copy.deepcopy(side).double()(inputs.double()), side(inputs)
        bound = 3 * float((whole - exact).abs().max()) + 2e-6
        for kept_share in (0.0, 0.5, 1.0):
            given = inputs.clone()
            assert float((in_strips(side, given, kept_share) - exact).abs().max()) <= bound
            assert torch.equal(given, inputs)  # what is written over is never what was given


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_of_the_fused_side(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    for side, inputs in sides(kl(), 64, 24):
        half = copy.deepcopy(fuse(side, attention=True)).to(dtype).to(memory_format=torch.channels_last)
        with torch.no_grad():
            expected = side(inputs)
            whole = half(inputs.to(dtype).contiguous(memory_format=torch.channels_last)).float()
        error = (in_strips(half, inputs.to(dtype)).float() - expected).norm() / expected.norm()
        assert error <= 1.5 * (whole - expected).norm() / expected.norm() + 1e-3


@pytest.mark.parametrize("make", [kl, vq])
def test_winograds_algorithm_in_strips(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 8)
    for side, inputs in sides(make(), 132, 20):
        with torch.no_grad():
            exact, whole = copy.deepcopy(side).double()(inputs.double()), side(inputs)
        faster = fuse(side, winograd=True)
        assert any(isinstance(module, WinogradConv) for module in faster.modules())
        bound = 3 * float((whole - exact).abs().max()) + 2e-6
        assert float((in_strips(faster, inputs) - exact).abs().max()) <= bound


def test_the_shares_of_the_layers_are_the_whole_work() -> None:
    for side, inputs in sides(kl(), 32, 32):
        shares: list[float] = []
        module = streamed(side)
        assert module is not None
        with torch.no_grad():
            module(torch.cat([inputs, inputs]), shares.append)
        assert sum(shares) == pytest.approx(1)
        assert max(shares) < 0.5  # of a block of one of the images


def test_ticks_come_after_each_strip_and_may_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)  # strips of 8 rows
    monkeypatch.setattr(fused, "_SCORES", 1)
    monkeypatch.setattr(fused, "_LEAST_QUERIES", 4)

    for side, inputs in sides(kl(), 64, 16):
        module = streamed(side)
        assert module is not None
        shares: list[float] = []
        with torch.no_grad():
            module(inputs, shares.append)
        count = len(shares)
        assert count > 60
        assert sum(shares) == pytest.approx(1)

        def end(share: float, left: list[int]) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        for ticks in range(1, count, 20):
            with torch.no_grad(), pytest.raises(KeyboardInterrupt):
                module(inputs, partial(end, left=[ticks]))


def test_layers_that_are_not_known_are_not_streamed() -> None:
    side = DecoderSide(kl())
    side.decoder.up_blocks[0].resnets[0].nonlinearity = torch.nn.GELU()
    assert streamed(side) is None
    assert streamed(EncoderSide(kl().train())) is None


def test_it_takes_a_third_of_the_memory() -> None:
    """By prediction, for the architecture of Stable Diffusion at 1024 pixels a side."""
    with torch.device("meta"):
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        ).eval()
    for side, shape in ((EncoderSide(model), (1, 3, 1024, 1024)), (DecoderSide(model), (1, 4, 128, 128))):
        module = streamed(side)
        assert module is not None
        whole = peak_bytes(side, shape, torch.float32, channels_last=False)
        assert peak_bytes(module, shape, torch.float32, channels_last=True) < whole / 3


def test_small_images_make_no_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their kernels are weights that most models never need."""
    made: list[object] = []
    monkeypatch.setattr(batching, "streamed", lambda side: made.append(side) or streamed(side))
    codec = Codec(kl(), name="m", precision="fp32")
    image = np.zeros((16, 16, 3), np.uint8)
    codec.reconstruct([image])
    codec.plan(64, 64)
    assert made == []
    monkeypatch.setattr(batching, "STREAMED_PIXELS", 1)
    codec.reconstruct([image, image])
    assert len(made) == 2  # one a side


@pytest.mark.parametrize("make", [kl, vq])
def test_a_codec_streams_what_is_large(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides, any size, in every precision; the codes of a VQModel are all the same."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((67, 45, 3), (300, 1, 3), (1, 300, 3))]
    model = make()
    for precision in ("exact", "fp32", "bf16"):
        whole = Codec(model, name="m", precision=precision)
        monkeypatch.setattr(batching, "STREAMED_PIXELS", 1)
        monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
        large = Codec(model, name="m", precision=precision)
        latents = large.encode(images)
        monkeypatch.undo()
        for one, other in zip(latents, whole.encode(images), strict=True):
            if precision == "bf16":
                continue
            torch.testing.assert_close(one.tensor, other.tensor, rtol=0, atol=1e-5)
            assert one.kind != "vq_indices" or torch.equal(one.tensor, other.tensor)
        decoded = zip(large.decode(latents), whole.decode(latents), strict=True)
        assert all(
            np.abs(one.astype(int) - other).max() <= (1 if precision != "bf16" else 40) for one, other in decoded
        )
