"""Large images through the commands: what they give, what is said of them, what is left where they are cut short."""

import io
import itertools
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_ae.cli import main
from latent_ae.config import ModelConfig
from latent_ae.inference import batching, forecast, strips
from latent_ae.io.image import to_tensor
from latent_ae.io.latent_file.latents import Compute, read_latents
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from tests.cli.conftest import Run, state
from tests.inference.side_runs import in_a_strip, in_strips
from tests.program.forked import fork
from tests.program.running import environment

SIZES = {"panorama": (64, 16384), "line": (900, 1), "odd": (257, 263)}


@pytest.fixture(scope="module")
@torch.no_grad()
def large_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`kl` and `vq` of factor 8."""
    folder = tmp_path_factory.mktemp("models")
    config = ModelConfig(preset="tiny", image_channels=3, block_out_channels=(4, 4, 4, 8), mid_block_add_attention=True)
    for name, kind in (("kl", None), ("vq", VQConfig(codebook_size=32, code_channels=2))):
        model = build_autoencoder(config, kind, seed=0, resolution=16)
        if kind is not None:  # codes among what the encoder gives: the stock start has one everywhere
            waves = np.asarray(Image.open(drawn(folder / "in", "odd") / "odd.png"))
            latents = model.encode(to_tensor(waves)[None, :, :256, :256]).latents
            model.quantize.embedding.weight.data.copy_(latents.flatten(2)[0, :, ::32].T)
        model.save_pretrained(folder / name)
    return folder


@dataclass(frozen=True)
class Given:
    """A folder with `in`, an image of 257x263 pixels, `latents`, those of it by a model, and `out`, what is made."""

    folder: Path
    model: Path

    def words(self, command: str) -> list[str]:
        source = self.folder / ("latents" if command == "decode" else "in")
        return [command, str(source), "-o", str(self.folder / "out"), "--model", str(self.model)]

    def out(self) -> list[str]:
        return sorted(state(self.folder / "out"))


@pytest.fixture
def given(large_models: Path, tmp_path: Path, run: Run) -> Given:
    run("encode", drawn(tmp_path / "in", "odd"), "-o", tmp_path / "latents", "--model", large_models / "kl")
    return Given(tmp_path, large_models / "kl")


def drawn(folder: Path, *names: str) -> Path:
    """Waves of three colours, and noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        height, width = SIZES[name]
        waves = np.sin(np.arange(height) / 20)[:, None, None] + np.sin(np.arange(width)[:, None] / [13, 17, 19])
        pixels = 128 + 50 * waves + rng.integers(-20, 20, waves.shape)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_images_of_any_size_are_what_they_are_whole(
    name: str, large_models: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the stock model: codes are all equal; pixels differ by no more than a rounding."""
    sizes = {size: SIZES[size] for size in SIZES if name == "vq" or size != "panorama"}  # takes seconds
    images, model = drawn(tmp_path / "in", *sizes), ("--model", large_models / name)
    for place, precision in (("whole", "exact"), ("strips", "fp32")):
        if place == "strips":
            in_strips(monkeypatch.setattr)
        words = (*model, "--precision", precision)
        assert run("encode", images, "-o", tmp_path / place / "latents", *words)[0] == 0
        assert run("decode", tmp_path / "whole" / "latents", "-o", tmp_path / place / "decoded", *words)[0] == 0
    for size, shape in sizes.items():
        one, other = (
            read_latents(tmp_path / place / "latents" / f"{size}.safetensors") for place in ("whole", "strips")
        )
        torch.testing.assert_close(one.tensor, other.tensor, rtol=0, atol=0 if name == "vq" else 1e-5)
        assert name == "kl" or size == "line" or len(one.tensor.unique()) > 16
        first, second = (
            np.asarray(Image.open(tmp_path / place / "decoded" / f"{size}.png")).astype(int)
            for place in ("whole", "strips")
        )
        assert first.shape == (*shape, 3)
        assert np.abs(first - second).max() <= 1
        assert (first != second).mean() < 1e-3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", ["encode", "decode", "reconstruct"])
def test_a_bar_counts_the_strips_of_a_large_image(command: str, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips(monkeypatch.setattr)
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setattr("tqdm.std.time", itertools.count().__next__)  # seconds go by between any two strips
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    assert main(given.words(command)) == 0
    shown = re.findall(r"odd\.\w+(?:, (\d+) strips)?: +(\d+)%\|", screen.getvalue())
    counts, shares = zip(*((int(count or 0), int(share)) for count, share in shown), strict=True)
    assert (shares[0], shares[-1]) == (0, 100)
    assert list(shares) == sorted(shares)
    assert list(counts) == list(range(len(counts)))
    assert len(counts) > 5
    assert len(given.out()) == 1


def test_how_long_attention_takes_is_said_before(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips(monkeypatch.setattr)
    monkeypatch.setattr(forecast, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    assert main(given.words("encode")) == 0
    told = (
        r"odd\.png takes about \d+ seconds, \d+ seconds of them for attention, .*: --tile 1024, an approximation, would"
    )
    assert re.search(told, screen.getvalue())


def test_exact_says_that_it_was_not_to_the_bit(given: Given, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*given.words("encode"), "--precision", "exact"]
    with monkeypatch.context() as patch:
        patch.setattr(strips, "_STRIP_BYTES", 2**14)
        patch.setattr(batching, "available_bytes", lambda _: 12 * 2**20)
        patch.setattr(sys, "stderr", screen := io.StringIO())
        assert main(words) == 0
        assert "odd.png does not fit into memory whole: the encoder computes it in strips, in fp32" in screen.getvalue()
        assert read_latents(given.folder / "out" / "odd.safetensors").compute == Compute("fp32")
        assert run(*words)[1].endswith("1 were there already\n")
    assert run(*words)[1].startswith("encoded 1 of 1")
    assert read_latents(given.folder / "out" / "odd.safetensors").compute == Compute("exact")


# ------------------------------------------------------------------------------------------------------- cut short


def out_of_accelerator() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")


FULL = {
    "torch": lambda: torch.empty(2**60, dtype=torch.uint8),
    "Python": lambda: bytearray(2**62),
    "CUDA": out_of_accelerator,
}


@pytest.mark.parametrize(("command", "kind"), [("encode", "torch"), ("decode", "Python"), ("reconstruct", "CUDA")])
def test_memory_that_runs_out_in_the_middle_is_one_line_that_says_what_fits(
    command: str, kind: str, given: Given, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_strips(patch.setattr)
        in_a_strip(FULL[kind], patch.setattr)
        status, said, errors = run(*given.words(command))
    source = next(Path(given.words(command)[1]).iterdir())
    fits = "184x184 pixels would fit, or --tile 128, an approximation"  # half of the image, or less
    assert (status, errors) == (1, [f"{source}: the memory ran out over it: {fits}"])
    assert said.startswith(f"{command.removesuffix('e')}ed 0 of 1 files")
    assert given.out() == []
    assert run(*given.words(command))[0] == 0
    assert len(given.out()) == 1


def encode_until(argv: list[str]) -> None:
    """`latent-ae encode` that stands still in a strip, or with its file half written, and says so."""
    where, flag, *words = argv

    def stand_still(*_: object) -> None:
        Path(flag).touch()
        time.sleep(600)

    in_strips(setattr)
    if where == "strip":
        in_a_strip(stand_still, setattr)
    else:
        os.fsync = stand_still
    main(words)


@pytest.mark.slow  # starts a process
@pytest.mark.parametrize("where", ["strip", "file"])
def test_a_run_that_is_killed_leaves_nothing_half_written(where: str, given: Given, run: Run) -> None:
    flag = given.folder / "stands"
    process = fork(
        "tests.cli.test_large_images:encode_until", [where, str(flag), *given.words("encode")], environment()
    )
    while not flag.exists():
        assert process.poll() is None, process.said()
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    left = list((given.folder / "out").iterdir())
    assert all(re.fullmatch(r"\.partial-\w{16}", file.name) for file in left)
    assert len(left) == (where == "file")
    assert run(*given.words("encode"))[1] == f"encoded 1 of 1 files into {given.folder / 'out'}\n"
    assert read_latents(given.folder / "out" / "odd.safetensors").compute == Compute("fp32")
