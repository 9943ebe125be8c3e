"""The Python interface against the codec and the latent file."""

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import latent_ae
from latent_ae.errors import BrokenImage, UserError
from latent_ae.inference import Codec
from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import WrongEncoder, read_latents
from tests.inference.test_codec import image, stock

SIZES = [(16, 24), (7, 5)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model directories `kl` and `vq`, RGB with a factor of 4."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("kl", "vq"):
        stock(vq=name == "vq").save_pretrained(folder / name)
    return folder


@pytest.fixture(params=["kl", "vq"])
def vae(request: pytest.FixtureRequest, models: Path) -> latent_ae.VAE:
    return latent_ae.load(models / request.param, device="cpu", precision="exact")


def codec_of(vae: latent_ae.VAE) -> Codec:
    return Codec.load(vae.codec.name, precision="exact")


def written(folder: Path, pixels: Pixels) -> Path:
    path = folder / f"{pixels.shape[1]}x{pixels.shape[0]}.png"
    Image.fromarray(pixels).save(path)
    return path


def test_importing_the_package_imports_no_torch() -> None:
    program = (
        "import sys, latent_ae; latent_ae.__version__; print(sorted({'torch', 'diffusers', 'PIL'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_windows_is_refused_in_one_line() -> None:
    program = "import sys; sys.platform = 'win32'; import latent_ae"
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = refused.stderr.splitlines()[-1]
    assert last == "ImportError: latent_ae runs on Linux and macOS; on Windows, run it in WSL 2"


def test_every_exported_name_is_there_and_no_other() -> None:
    assert set(latent_ae.__all__) <= set(dir(latent_ae))
    assert all(hasattr(latent_ae, name) for name in latent_ae.__all__)
    with pytest.raises(AttributeError, match="module 'latent_ae' has no attribute 'Codec'"):
        latent_ae.Codec  # noqa: B018


def test_an_image_goes_through_a_file_and_back(vae: latent_ae.VAE, tmp_path: Path) -> None:
    """As the codec and the latent file do it; a path, a PIL image and an array give the same."""
    pixels = image(*SIZES[1])
    path = written(tmp_path, pixels)
    latents = vae.encode(path)
    latents.save(tmp_path / "one.safetensors")
    loaded = latent_ae.Latents.load(str(tmp_path / "one.safetensors"))
    codec = codec_of(vae)
    (expected,) = codec.encode([pixels])
    assert torch.equal(loaded.tensor, expected.tensor)
    assert (loaded.kind, loaded.encoder, loaded.compute) == (expected.kind, codec.identity, expected.compute)
    assert loaded.sources == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    decoded = vae.decode(loaded)
    assert decoded.size == (5, 7)
    assert np.array_equal(np.asarray(decoded), codec.decode([expected])[0])
    for other in (str(path), Image.open(path), pixels):
        assert torch.equal(vae.encode(other).tensor, latents.tensor)


def test_a_list_gives_a_list_in_its_order(vae: latent_ae.VAE, tmp_path: Path) -> None:
    pictures = [image(*size) for size in SIZES]
    latents = vae.encode([written(tmp_path, pictures[0]), pictures[1]])
    assert [(each.height, each.width) for each in latents] == SIZES
    assert [len(each.sources) for each in latents] == [1, 0]
    for got, expected in zip(vae.decode(latents), codec_of(vae).reconstruct(pictures), strict=True):
        assert np.array_equal(np.asarray(got), expected)


def test_a_seed_samples_from_the_posterior(models: Path) -> None:
    vae, picture = latent_ae.load(models / "kl", precision="exact"), image(8, 8)
    sampled = vae.encode(picture, seed=3, logvar=True)
    (expected,) = codec_of(vae).encode([picture], seed=3, logvar=True)
    assert sampled.kind == "sample"
    assert torch.equal(sampled.tensor, expected.tensor)
    assert sampled.logvar is not None
    assert expected.logvar is not None
    assert torch.equal(sampled.logvar, expected.logvar)
    codes = latent_ae.load(models / "vq")
    for options in ({"seed": 3}, {"logvar": True}):
        with pytest.raises(UserError, match="has no posterior: leave out seed and logvar"):
            codes.encode(picture, **options)  # type: ignore[call-overload]


def test_latents_are_stored_in_the_dtype_that_is_asked_for(models: Path, tmp_path: Path) -> None:
    latents = latent_ae.load(models / "kl").encode(image(8, 8))
    latents.save(tmp_path / "half.safetensors", dtype="float16")
    assert torch.equal(read_latents(tmp_path / "half.safetensors").tensor, latents.tensor.half())


def test_what_was_changed_on_reading_is_logged(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.fromarray(image(8, 8, seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "two.tiff", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING, "latent_ae"):
        latent_ae.load(models / "kl").encode(tmp_path / "two.tiff")
    assert "two.tiff had 2 frames or pages, of which the first was used" in caplog.text


def test_what_cannot_be_used_is_refused_in_one_line(models: Path, tmp_path: Path) -> None:
    vae = latent_ae.load(models / "kl")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(BrokenImage, match=r"cannot use the image .*text\.png"):
        vae.encode(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError):
        vae.encode(tmp_path / "missing.png")
    with pytest.raises(UserError, match=r"got an array of float32 \[8, 8\], expected uint8 \[H,W,C\]"):
        vae.encode(np.zeros((8, 8), np.float32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got an image of type Tensor, expected a path.*encode_tensor takes tensors"):
        vae.encode(torch.zeros(1, 3, 8, 8))  # type: ignore[call-overload]
    with pytest.raises(UserError, match=r"got latents of 2 images, expected 1: decode\(\[latents\]\) returns a list"):
        vae.decode(latent_ae.Latents("mean", torch.zeros(2, 3, 2, 2), vae.codec.identity, 8, 8, 4))
    with pytest.raises(WrongEncoder):
        vae.decode(latent_ae.load(models / "vq").encode(image(8, 8)))
    with pytest.raises(UserError, match="got the device 'tpu'"):
        latent_ae.load(models / "kl", device="tpu")
