"""Tiles cover everything, their weights sum to one, and what does not look around comes out as from the whole."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.inference.sides import EncoderSide
from latent_ae.inference.tiling import Seam, Tiling, blend_weights, run_tiled
from latent_ae.io.image import from_tensor, to_tensor
from latent_ae.io.latent_file.latents import Compute
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig

ENCODING_ERROR = 0.2
DECODING_ERROR = 0.18
SEAM_DECIBEL = 12.0
LENGTHS = [8, 9, 13, 15, 16, 22, 23, 64, 65]


@pytest.mark.parametrize("overlap", [1, 2, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_tiles_are_whole_and_share_enough_with_their_neighbours(length: int, overlap: int) -> None:
    starts = Tiling(8, overlap).starts(length)
    assert starts[0] == 0
    assert starts[-1] + 8 == length
    shared = [start + 8 - following for start, following in pairwise(starts)]
    assert all(overlap <= each < 8 for each in shared)
    # One fewer could not reach: they advance by 8 - overlap at most.
    assert 8 + (len(starts) - 2) * (8 - overlap) < length


def test_what_is_not_larger_than_a_tile_is_not_tiled() -> None:
    tiling = Tiling(8, 2)
    assert [tiling.count(*grid) for grid in [(8, 8), (1, 8), (9, 8), (9, 9), (9, 15)]] == [1, 1, 2, 4, 6]
    assert tiling.size(5, 30) == (5, 8)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_weights_sum_to_one_and_are_all_positive(length: int, scale: int) -> None:
    starts = [scale * start for start in Tiling(8, 2).starts(length)]
    weights = blend_weights(starts, scale * min(8, length), scale * length)
    total = torch.zeros(scale * length)
    for start, weight in zip(starts, weights, strict=True):
        assert weight.min() > 0
        total[start : start + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones(scale * length))


def test_two_tiles_cross_over_in_a_straight_line() -> None:
    first, second = blend_weights([0, 4], 6, 10)
    assert first.tolist() == [1, 1, 1, 1, 0.75, 0.25]
    assert second.tolist() == [0.25, 0.75, 1, 1, 1, 1]


@pytest.mark.parametrize("size", [(8, 9), (9, 9), (20, 8), (31, 17)])
def test_a_function_of_one_position_comes_out_as_from_the_whole(size: tuple[int, int]) -> None:
    inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    seam, calls = Seam(), []

    def run(tile: Tensor) -> Tensor:
        calls.append(tile.shape)
        return (tile.repeat_interleave(4, -1).repeat_interleave(4, -2) * 3).tanh()

    tiling = Tiling(8, 2)
    ticks: list[int] = []
    got = run_tiled(run, inputs, tiling, scale_in=1, scale_out=4, tick=lambda: ticks.append(1), seam=seam)
    torch.testing.assert_close(got, run(inputs))
    assert len(ticks) == len(calls) - 1 == tiling.count(*size)
    assert set(calls[:-1]) == {(2, 3, *tiling.size(*size))}
    assert seam.decibel == pytest.approx(100, abs=1e-9)


def test_the_seam_is_the_psnr_of_what_neighbours_say() -> None:
    # Each tile says its own number everywhere: 0, then 0.1; they share 2 of 10 columns.
    numbers = iter([0.0, 0.1])
    seam = Seam()
    got = run_tiled(
        lambda tile: torch.full_like(tile, next(numbers)),
        torch.zeros(1, 1, 6, 10),
        Tiling(6, 2),
        scale_in=1,
        scale_out=1,
        tick=lambda: None,
        seam=seam,
    )
    assert seam.decibel == pytest.approx(26.0206, abs=1e-3)  # 10 log10(2^2 / 0.1^2)
    assert got[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 0.025, 0.075, 0.1, 0.1, 0.1, 0.1])


def test_nothing_shared_is_no_seam() -> None:
    assert Seam().decibel is None


def test_tiles_too_small_to_blend_are_refused() -> None:
    assert Tiling.of_pixels(512, 8) == Tiling(64, 8)
    assert Tiling.of_pixels(32, 8) == Tiling(4, 1)
    with pytest.raises(UserError, match="3 latent positions a side: take 32 pixels or more"):
        Tiling.of_pixels(31, 8)


def tiny(*, vq: bool = False, attention: bool = False, tile: int | None = 32) -> Codec:
    config = ModelConfig(preset="tiny", image_channels=3, mid_block_add_attention=attention)
    bottleneck = VQConfig(codebook_size=16, code_channels=2) if vq else None
    model = build_autoencoder(config, bottleneck, seed=0, resolution=32)
    return Codec(model, name="m", precision="exact", tile=tile)


def texture(height: int, width: int) -> Tensor:
    """Pixels that look alike everywhere, so that tiles have about the statistics of the whole."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (0.4 * torch.sin(x * 0.8 + y * 0.5) + 0.6 * noise).clamp(-1, 1)


def real_forwards(codec: Codec) -> list[torch.Size]:
    """What goes through the sides from now on, without the predictions of memory."""
    seen: list[torch.Size] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        if not inputs[0].is_meta:
            seen.append(inputs[0].shape)

    for part in (codec.model.encoder, codec.model.decoder):  # which an exact codec runs itself
        part.register_forward_hook(note)
    return seen


@pytest.mark.parametrize("attention", [False, True])
def test_a_tiled_model_is_near_the_whole_one(attention: bool) -> None:
    """Near, not equal: normalisation and attention see a tile. Measured: 0.06 and 0.11, 0.09 and 0.08, 17 and 18 dB.

    A tile in the wrong place would be off by 1.4, 0.38 and 15 dB less.
    """
    tiled, whole = tiny(attention=attention), tiny(attention=attention, tile=None)
    forwards = real_forwards(tiled)
    pixels = texture(33, 70)
    latents, expected = tiled.encode_tensor(pixels), whole.encode_tensor(pixels)
    assert forwards == [(1, 3, 32, 32)] * 6
    assert 0 < (latents - expected).norm() / expected.norm() < ENCODING_ERROR
    decoded = tiled.decode_tensor(expected)
    assert forwards[6:] == [(1, 2, 16, 16)] * 6
    assert 0 < (decoded - whole.decode_tensor(expected)).square().mean().sqrt() < DECODING_ERROR
    assert tiled.decode_tensor(expected[..., :16, :16]).shape == (1, 3, 32, 32)


def test_each_image_has_its_own_seam_and_says_how_it_was_coded() -> None:
    """Images of one call: the seam of one was told of all of them."""
    tiled = tiny()
    images = [from_tensor(each)[0] for each in (texture(33, 70), torch.zeros(1, 3, 33, 70), texture(32, 32))]
    together = tiled.decode_measured(tiled.encode(images))
    for image, decoded in zip(images, together, strict=True):
        (alone,) = tiled.decode_measured(tiled.encode([image]))
        assert (decoded.compute, decoded.seam_db) == (alone.compute, alone.seam_db)
        assert np.array_equal(decoded.image, alone.image)
    assert [each.compute for each in together] == [Compute("exact", 32, 6)] * 2 + [Compute("exact")]
    assert [latents.compute for latents in tiled.encode(images)] == [each.compute for each in together]
    first, second, third = (each.seam_db for each in together)
    assert first is not None
    assert second is not None
    assert first > SEAM_DECIBEL
    assert abs(second - first) > 0.05
    assert third is None


def test_images_go_through_whole_unless_asked() -> None:
    config = ModelConfig(preset="tiny", image_channels=3)
    codec = Codec(build_autoencoder(config, seed=0, resolution=32), name="m")
    (latents,) = codec.encode([from_tensor(texture(20, 1100))[0]])
    assert latents.compute == Compute("fp32")
    assert codec.plan(4000, 4000).tiles == 1


@pytest.mark.parametrize("vq", [False, True])
@pytest.mark.parametrize("size", [(33, 32), (32, 33), (45, 77), (64, 31), (1, 100)])
def test_sizes_that_tiles_do_not_divide_are_cropped_exactly(size: tuple[int, int], vq: bool) -> None:
    codec = tiny(vq=vq)
    forwards = real_forwards(codec)
    image = from_tensor(texture(*size)[0])
    (latents,) = codec.encode([image], logvar=True)
    assert latents.grid == (-(-size[0] // 2), -(-size[1] // 2))
    assert latents.logvar is None if vq else latents.logvar.shape == latents.tensor.shape
    assert len(forwards) == codec.plan(*size).tiles > 1
    (decoded,) = codec.decode([latents])
    assert decoded.shape == image.shape
    whole = codec.decode_tensor(codec.vectors(latents))
    assert np.array_equal(decoded, from_tensor(whole[0, :, : size[0], : size[1]]))


def test_vectors_of_a_codebook_are_blended_before_they_are_quantised() -> None:
    codec = tiny(vq=True)
    pixels = texture(32, 48)
    tiles = [EncoderSide(codec.model)(pixels[..., start : start + 32]) for start in (0, 16)]
    left, right = blend_weights([0, 8], 16, 24)
    blended = torch.zeros(1, 2, 16, 24)
    blended[..., :16] += left * tiles[0]
    blended[..., 8:] += right * tiles[1]
    assert torch.equal(codec.encode_tensor(pixels), codec.codebook.vectors(codec.codebook.nearest(blended)))


def test_the_log_variance_is_tiled_too() -> None:
    codec = tiny()
    image = from_tensor(texture(32, 48)[0])
    latents = codec.encode([image], logvar=True)[0]
    pixels = to_tensor(image)[None]
    first, second = (EncoderSide(codec.model)(pixels[..., start : start + 32])[:, 2:] for start in (0, 16))
    assert torch.equal(latents.logvar[..., :8], first[..., :8])
    assert torch.equal(latents.logvar[..., 16:], second[..., 8:])


def test_an_exception_from_the_tick_ends_the_work() -> None:
    codec = tiny()
    forwards = real_forwards(codec)

    def stop(share: float) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        codec.encode([from_tensor(texture(32, 100)[0])], tick=stop)
    assert len(forwards) == 1
