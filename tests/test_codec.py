"""Any size in, exactly that size out; what the stock model does where nothing has to be padded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latent_ae.codec import decode, encode, output_names, reconstruct, reconstruct_file
from latent_ae.config import ModelConfig
from latent_ae.image import BrokenImage
from latent_ae.models import build_autoencoder


def build(channels: int) -> AutoencoderKL:
    config = ModelConfig(preset="tiny", image_channels=channels, block_out_channels=(4, 4, 8))  # a factor of 4
    return build_autoencoder(config, seed=0, resolution=16).eval()


@pytest.fixture(scope="module")
def grey() -> AutoencoderKL:
    return build(1)


@pytest.fixture(scope="module")
def color() -> AutoencoderKL:
    return build(3)


def noise(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def stock(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)


SIZES = [(16, 16), (15, 16), (16, 13), (5, 7), (1, 1), (3, 33)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_reconstruction_has_exactly_the_size_of_its_image(
    grey: AutoencoderKL, color: AutoencoderKL, channels: int, height: int, width: int
) -> None:
    model, pixels = (grey if channels == 1 else color), noise(height, width, channels)
    assert reconstruct(model, pixels).shape == pixels.shape
    assert encode(model, pixels).shape == (2, 2, -(-height // 4), -(-width // 4))


def test_where_the_size_fits_it_is_the_stock_model(color: AutoencoderKL) -> None:
    pixels = noise(16, 24)
    assert torch.equal(reconstruct(color, pixels), stock(color, pixels))
    assert torch.equal(encode(color, pixels), color.encode(pixels).latent_dist.mode())


def test_other_sizes_repeat_the_last_row_and_column(color: AutoencoderKL) -> None:
    pixels = noise(14, 17)
    padded = torch.from_numpy(np.pad(pixels.numpy(), ((0, 0), (0, 0), (0, 2), (0, 3)), mode="edge"))
    assert torch.equal(reconstruct(color, pixels), stock(color, padded)[..., :14, :17])


def test_what_is_decoded_lies_in_the_range_of_pixels(color: AutoencoderKL) -> None:
    latents = 100 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        unclamped = color.decode(latents).sample * 100
    pixels = decode(color, latents)
    assert unclamped.abs().max() > 1
    assert pixels.abs().max() <= 1
    assert not pixels.requires_grad


PIXELS: NDArray[np.uint8] = np.random.default_rng(3).integers(0, 256, (11, 6, 3), dtype=np.uint8)


def cmyk_jpeg(file: Path) -> NDArray[np.uint8]:
    Image.fromarray(PIXELS).convert("CMYK").save(file, "JPEG", quality=95)
    cmyk = np.asarray(Image.open(file)).astype(int)
    assert cmyk.shape == (11, 6, 4)
    ink, black = cmyk[:, :, :3], cmyk[:, :, 3:]
    return np.floor((255 - ink) * (255 - black) / 255 + 0.5).astype(np.uint8)


def sixteen_bit_png(file: Path) -> NDArray[np.uint8]:
    values = (PIXELS[:, :, 0].astype(np.uint16) * 257) ^ 1
    Image.fromarray(values).save(file, "PNG")
    return np.rint(values[:, :, None] / 257).astype(np.uint8).repeat(3, axis=2)


def rgba_png(file: Path) -> NDArray[np.uint8]:
    alpha = PIXELS[:, :, ::-1][:, :, :1]
    Image.fromarray(np.dstack([PIXELS, alpha])).save(file, "PNG")
    share = alpha / 255
    return np.rint(share * PIXELS + (1 - share) * 255).astype(np.uint8)


def turned_jpeg(file: Path) -> NDArray[np.uint8]:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    Image.fromarray(PIXELS).save(file, "JPEG", quality=95, exif=exif)
    lying = np.asarray(Image.open(file))
    assert lying.shape == (11, 6, 3)
    return np.rot90(lying, k=-1)


def palette_png(file: Path) -> NDArray[np.uint8]:
    image = Image.fromarray(PIXELS).quantize(8)
    image.save(file, "PNG")
    return np.asarray(image.getpalette(), dtype=np.uint8).reshape(-1, 3)[np.asarray(image)]


def one_bit_png(file: Path) -> NDArray[np.uint8]:
    bits = PIXELS[:, :, 0] > 127
    Image.fromarray(bits).save(file, "PNG")
    return np.where(bits, 255, 0).astype(np.uint8)[:, :, None].repeat(3, axis=2)


@pytest.mark.parametrize("write", [cmyk_jpeg, sixteen_bit_png, rgba_png, turned_jpeg, palette_png, one_bit_png])
def test_files_of_every_mode(color: AutoencoderKL, tmp_path: Path, write) -> None:
    expected = write(tmp_path / "image")
    reconstruct_file(color, tmp_path / "image", tmp_path / "out.png")
    pixels = torch.from_numpy(expected.transpose(2, 0, 1).astype(np.float32))[None] / 127.5 - 1
    with Image.open(tmp_path / "out.png") as written:
        assert (written.format, written.mode) == ("PNG", "RGB")
        got = np.asarray(written)
    assert got.shape == expected.shape
    wanted = (reconstruct(color, pixels)[0].numpy().transpose(1, 2, 0) + 1) * 127.5
    # Half a level from rounding; PIL blends CMYK in integers, which may be one level off in the input.
    assert np.abs(got - wanted).max() <= 0.51 + (write is cmyk_jpeg)


def test_a_grey_model_writes_grey_files(grey: AutoencoderKL, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "in.png")
    reconstruct_file(grey, tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert (written.mode, written.size) == ("L", (6, 11))


def test_a_broken_file_leaves_nothing_behind(color: AutoencoderKL, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"no image")
    with pytest.raises(BrokenImage, match=r"in\.png"):
        reconstruct_file(color, tmp_path / "in.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a.png", "b.jpg"], ["a.png", "b.png"]),
        (["one/a.png", "two/a.png"], ["a.png", "a.png.png"]),
        (["a.jpg", "a.png"], ["a.png", "a.png.png"]),
        (["a.jpg", "a.tif"], ["a.png", "a.tif.png"]),
        (["a.jpg", "x/a.jpg", "y/a.jpg", "z/a.jpg"], ["a.png", "a.jpg.png", "a-2.png", "a-3.png"]),
        (["a-2.jpg", "a.jpg", "x/a.jpg", "y/a.jpg"], ["a-2.png", "a.png", "a.jpg.png", "a-3.png"]),
        (["a.jpg.tif", "a.jpg", "x/a.jpg"], ["a.jpg.png", "a.png", "a-2.png"]),
        (["a.b.png", ".hidden"], ["a.b.png", ".hidden.png"]),
    ],
)
def test_no_two_images_are_written_to_one_file(images: list[str], names: list[str]) -> None:
    assert output_names([Path(image) for image in images]) == names
