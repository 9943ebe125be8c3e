"""Tiny models in folders, and how commands are run on them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from latent_ae.cli import main
from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from tests.data.images import noise_image, write_images

Run = Callable[..., tuple[int, str, list[str]]]
FP32 = ("--precision", "fp32")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `kl`, `other` (another encoder), `certain` (no posterior) and `vq`, all of factor 2 and grey."""
    folder = tmp_path_factory.mktemp("models")
    config = ModelConfig(preset="tiny")
    for name, seed, kind in (("kl", 0, "kl"), ("other", 1, "kl"), ("vq", 0, "vq")):
        bottleneck = BOTTLENECKS[kind](**({"codebook_size": 32, "code_channels": 2} if kind == "vq" else {}))
        build_autoencoder(config, bottleneck, seed=seed, resolution=16).save_pretrained(folder / name)
    certain = build_autoencoder(config, seed=2, resolution=16)
    certain.quant_conv.weight.data[2:] = 0
    certain.quant_conv.bias.data[2:] = -30
    certain.save_pretrained(folder / "certain")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `latent-ae WORDS`: its exit status, what it said, and its lines that start with `error: `, without that."""

    def run_command(*words: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        errors = [line.removeprefix("error: ") for line in captured.err.splitlines() if line.startswith("error: ")]
        return status, captured.out, errors

    return run_command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images in two folders, two of one name, of three sizes."""
    folder = tmp_path / "photos"
    write_images(folder, ["a.png", "b.bmp", "sub/a.png", "sub/c.png"])
    noise_image(4, 21, 13).save(folder / "odd.png")
    noise_image(5, 9, 30).save(folder / "sub" / "tall.jpg")
    noise_image(6).save(folder / "a.tif")
    return folder


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Of every file below a folder when it was written, and what is in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
