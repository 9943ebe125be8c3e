"""Precision and tiles: what they became is said, stored in every file and shown, and a later run goes by it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_ae.cli import main
from latent_ae.config import ModelConfig
from latent_ae.io.image_writing import read_record
from latent_ae.io.latent_file.latents import Compute, read_latents
from latent_ae.latent_dataset import LatentDataset
from latent_ae.models import build_autoencoder
from tests.cli.conftest import Run, state
from tests.latent_dataset.made import index, make, settings

RunOn = Callable[..., list[str]]
TILED = ("--tile", 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of colour, because folders of latents are made of the images below."""
    folder = tmp_path_factory.mktemp("model")
    build_autoencoder(ModelConfig(preset="tiny", image_channels=3), seed=0, resolution=16).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One larger than a tile, one as large."""
    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(0)
    for name, size in (("large", (33, 70, 3)), ("small", (32, 32, 3))):
        Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


@pytest.fixture
def run_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path) -> RunOn:
    """Runs a command of the model on a processor that multiplies bfloat16, or on one that does not.

    Gives its lines: how it works, then what it did.
    """

    def run_command(bf16: bool, *words: object) -> list[str]:
        monkeypatch.setattr("latent_ae.inference.precision.multiplies_bf16", lambda: bf16)
        capsys.readouterr()
        assert main([*map(str, words), "--model", str(model)]) == 0
        captured = capsys.readouterr()
        return [*captured.err.splitlines(), *captured.out.splitlines()]

    return run_command


@pytest.mark.parametrize(
    "case",
    [
        ((), True, "fp32"),
        ((), False, "fp32"),
        (("--precision", "auto"), True, "bf16"),
        (("--precision", "auto"), False, "fp32"),
        (("--precision", "exact"), True, "exact"),
        (("--precision", "bf16"), False, "bf16"),
    ],
)
def test_what_the_encoder_ran_in_is_said_stored_and_shown(
    pictures: Path, run: Run, run_on: RunOn, case: tuple[tuple[str, ...], bool, str]
) -> None:
    compute, bf16, became = case
    how, _ = run_on(bf16, "encode", pictures, "-o", pictures.parent / "out", *compute)
    assert how.startswith(f"encoder {became}")
    assert how.endswith("; images whole")
    file = pictures.parent / "out" / "large.safetensors"
    assert read_latents(file).compute == Compute(became)
    assert f"compute         {became}, whole\n" in run("inspect", file)[1]


def test_latents_do_not_depend_on_the_processor(pictures: Path, run_on: RunOn) -> None:
    out = pictures.parent / "out"
    run_on(True, "encode", pictures, "-o", out)
    before = state(out)
    assert run_on(False, "encode", pictures, "-o", out)[-1].endswith("2 were there already")
    for file in out.iterdir():
        file.unlink()
    run_on(False, "encode", pictures, "-o", out)
    assert [data for _, data in state(out).values()] == [data for _, data in before.values()]


@pytest.mark.parametrize("command", [("encode", "--precision", "auto"), ("reconstruct",)])
def test_a_folder_never_mixes_what_two_processors_made(pictures: Path, run_on: RunOn, command: tuple[str, ...]) -> None:
    """The command is the same, what it becomes is not."""
    words = (*command, pictures, "-o", pictures.parent / "out")
    for bf16 in (True, False, True):
        assert "were there already" not in run_on(bf16, *words)[-1]
        assert run_on(bf16, *words)[-1].endswith("2 were there already")


def test_tiles_are_said_stored_and_shown(pictures: Path, tmp_path: Path, run: Run, run_on: RunOn) -> None:
    assert run_on(True, "encode", pictures, "-o", tmp_path / "latents", *TILED) == [
        "encoder fp32; images above 32 pixels a side in tiles",
        f"encoded 2 of 2 files into {tmp_path / 'latents'}",
        "1 of them in tiles, an approximation",
    ]
    computes = {name: read_latents(tmp_path / "latents" / f"{name}.safetensors").compute for name in ("large", "small")}
    assert computes == {"large": Compute("fp32", 32, 6), "small": Compute("fp32")}
    table = run("inspect", tmp_path / "latents", "--json", tmp_path / "told.json")[1]
    assert "fp32, 6 tiles of 32 pixels" in table
    assert [each["compute"]["tiles"] for each in json.loads((tmp_path / "told.json").read_text())] == [6, 1]

    how, _, tiled = run_on(True, "decode", tmp_path / "latents", "-o", tmp_path / "out", "--precision", "fp32", *TILED)
    assert how == "decoder fp32; images above 32 pixels a side in tiles"
    record = read_record(tmp_path / "out" / "large.png")
    assert record is not None
    assert record[0]["compute"] == {"decoder": {"precision": "fp32", "tile": 32, "tiles": 6}}
    agree = f"{record[0]['seam_db']:.1f} dB"
    assert tiled == f"1 of them in tiles, an approximation, which agree to {agree} or more where they overlap"
    small = read_record(tmp_path / "out" / "small.png")
    assert small is not None
    assert small[0]["compute"] == {"decoder": {"precision": "fp32", "tile": None, "tiles": 1}}
    assert "seam_db" not in small[0]


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_only_what_tiles_change_is_made_anew(
    model: Path, pictures: Path, tmp_path: Path, run: Run, command: str
) -> None:
    words = (command, pictures, "-o", tmp_path / "out", "--model", model)
    run(*words)
    for tile in ((*TILED,), ("--tile", "off")):
        assert ", 1 were there already" in run(*words, *tile)[1]
        assert ", 2 were there already" in run(*words, *tile)[1]


@pytest.mark.parametrize("tile", [None, 32])
def test_a_data_set_of_latents_has_the_latents_of_encode(
    model: Path, pictures: Path, run_on: RunOn, tile: int | None
) -> None:
    """One image, one latents: by default whole, and in the same tiles where both are told so."""
    tmp_path = pictures.parent
    run_on(True, "encode", pictures, "-o", tmp_path / "files", *(() if tile is None else ("--tile", tile)))
    make(settings(model, tmp_path / "set", path=pictures, dtype="float32", **({} if tile is None else {"tile": tile})))
    dataset = LatentDataset(tmp_path / "set", posterior="mode", scaling="none")
    assert len(dataset) == 2
    for number, row in enumerate(index(tmp_path / "set")):
        ours = read_latents(tmp_path / "files" / f"{Path(row['name']).stem}.safetensors").tensor[0]
        torch.testing.assert_close(dataset[number]["latents"], ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tile", "0"), "got '0', expected a number of pixels or off"),
        (("--tile", "no"), "got 'no', expected a number of pixels or off"),
    ],
)
def test_a_tile_is_a_number_of_pixels(
    words: tuple[str, str], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("encode", "x.png", "-o", "out", "--model", "some/m", *words)
    assert message in capsys.readouterr().err


def test_a_tile_too_small_for_the_model_is_refused(model: Path, pictures: Path, tmp_path: Path, run: Run) -> None:
    status, _, errors = run("encode", pictures, "-o", tmp_path / "out", "--model", model, "--tile", 7)
    assert status == 2
    assert errors == ["tiles of 7 pixels hold 3 latent positions a side: take 8 pixels or more"]
