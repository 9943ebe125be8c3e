"""Models of other classes through the commands: encode, decode, reconstruct, inspect, evaluate, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_ae.io.latent_file.latents import read_latents
from tests.cli.conftest import FP32, Run
from tests.models.adapted_models import network

NAMES = ("AutoencoderTiny", "AutoencoderKLFlux2", "AutoencoderKLWan")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("others")
    for name in NAMES:
        network(name).save_pretrained(folder / name)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    values = np.random.default_rng(3).integers(0, 256, (37, 41, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_goes_through_files_as_at_once(
    name: str, others: Path, picture: Path, tmp_path: Path, run: Run
) -> None:
    model = ("--model", others / name, *FP32)
    assert run("encode", picture, "-o", tmp_path / "latents", *model)[::2] == (0, [])
    assert run("decode", tmp_path / "latents", "-o", tmp_path / "decoded", *model)[::2] == (0, [])
    assert run("reconstruct", picture, "-o", tmp_path / "out", *model)[::2] == (0, [])
    decoded, out = (np.asarray(Image.open(tmp_path / folder / "picture.png")) for folder in ("decoded", "out"))
    assert decoded.shape == (37, 41, 3)
    assert np.array_equal(decoded, out)
    status, said, _ = run("inspect", tmp_path / "latents/picture.safetensors")
    assert status == 0
    assert name in said


def test_the_file_says_which_class_and_encoder_made_it(others: Path, picture: Path, tmp_path: Path, run: Run) -> None:
    run("encode", picture, "-o", tmp_path, "--model", others / "AutoencoderTiny", *FP32)
    latents = read_latents(tmp_path / "picture.safetensors")
    assert latents.encoder_class == "AutoencoderTiny"
    assert (latents.scaling_factor, latents.shift_factor) == (0.9, 0.1)
    status, _, errors = run(
        "decode", tmp_path / "picture.safetensors", "-o", tmp_path, "--model", others / "AutoencoderKLFlux2", *FP32
    )
    assert status == 1
    assert latents.encoder[:16] in errors[0]


def test_they_are_measured(others: Path, picture: Path, tmp_path: Path, run: Run) -> None:
    names = [others / name for name in NAMES]
    status, said, errors = run(
        "evaluate", *names, "--data.source", "folder", "--data.path", picture.parent, "--part", "all",
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert (status, errors) == (0, [])
    tiny, flux, _ = json.loads((tmp_path / "out.json").read_text())["models"].values()
    assert tiny["latents"]["scaled"]["scaling_factor"] == 0.9
    assert flux["latents"]["scaled"] is None
    assert flux["metrics"]["kl_nats"]["value"] is not None
    assert tiny["metrics"]["kl_nats"]["value"] is None
    assert "psnr" in said.lower()


def test_exports_are_not_for_them(others: Path, tmp_path: Path, run: Run) -> None:
    tiny = others / "AutoencoderTiny"
    assert run("export", "diffusers", "--model", tiny, "-o", tmp_path / "vae")[::2] == (
        2,
        [
            f"{tiny} holds a model of class AutoencoderTiny; it encodes, decodes and is measured here, while training "
            "and exports take AutoencoderKL and VQModel"
        ],
    )


def test_a_likelihood_needs_a_posterior(others: Path, run: Run) -> None:
    status, _, errors = run("likelihood", others / "AutoencoderTiny", "--data.source", "photos")
    assert status == 2
    assert errors[0].startswith("a likelihood needs latents with a posterior, but an AutoencoderTiny has none")


def test_draws_are_of_a_usual_size_where_the_model_states_none(others: Path, tmp_path: Path, run: Run) -> None:
    tiny = others / "AutoencoderTiny"
    assert run("sample", "-o", tmp_path / "draws.png", "--model", tiny, "--count", 1, *FP32)[::2] == (0, [])
    with Image.open(tmp_path / "draws.png") as drawn:
        assert drawn.size == (256, 256)
