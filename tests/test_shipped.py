"""The models that come with the package load everywhere, are what their files say, and keep photographs well."""

import csv
import json
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import latent_ae
from latent_ae.cli import main
from latent_ae.data import PhotosConfig
from latent_ae.data.source import as_picture
from latent_ae.evaluation.metrics.quality import psnr
from latent_ae.inference import Codec
from latent_ae.io.image import to_tensor, to_uint8
from latent_ae.io.model_place import located
from latent_ae.models import factor_of, load_autoencoder
from latent_ae.models.naming import find_model
from latent_ae.models.parts import encoder_identity
from latent_ae.shipped import DEFAULT, shipped_models

WEIGHTS = "diffusion_pytorch_model.safetensors"
MODELS = shipped_models()


def test_they_are_few_and_small() -> None:
    assert DEFAULT in MODELS
    assert sum(file.stat().st_size for folder in MODELS.values() for file in folder.iterdir()) < 12e6


@pytest.mark.parametrize("name", MODELS)
def test_stock_diffusers_loads_what_is_stored_and_measured(name: str) -> None:
    folder = MODELS[name]
    model, stored = load_autoencoder(name), load_file(folder / WEIGHTS)
    stock = getattr(diffusers, type(model).__name__).from_pretrained(folder, torch_dtype=torch.float32)
    for key, tensor in stock.state_dict().items():
        assert stored[key].dtype == torch.float16
        assert torch.equal(tensor, model.state_dict()[key])
    assert json.loads((folder / "latent_stats.json").read_text())["encoder_identity"] == encoder_identity(model)
    assert factor_of(model) == 8
    assert sum(tensor.numel() for tensor in stored.values()) <= 4_000_000


@pytest.mark.parametrize("name", MODELS)
def test_the_photographs_it_was_trained_on_are_listed_with_author_and_licence(name: str) -> None:
    with (MODELS[name] / "photographs.csv").open(newline="") as listing:
        rows = list(csv.DictReader(listing))
    assert len(rows) == 120
    assert all(row["author"] and row["licence"] and row["origin"].startswith("https://") for row in rows)
    assert "photographs.csv" in (MODELS[name] / "README.md").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_photographs_that_it_was_not_trained_on(name: str) -> None:
    source, codec = PhotosConfig().open().heldout, Codec.load(name, precision="fp32")
    coffee = next(index for index in range(len(source)) if "coffee" in source.sample_id(index))
    target = to_tensor(to_uint8(as_picture(source.load(coffee)), 3))[None]
    assert float(psnr(codec.decode_tensor(codec.encode_tensor(target)), target)) > LEAST_PSNR[name]


LEAST_PSNR = {"photos-kl": 27.9}
"""dB of the coffee cup, a little less than was measured"""


def test_a_name_means_the_model_unless_a_path_of_that_name_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(Path(DEFAULT)) == MODELS[DEFAULT]
    (tmp_path / DEFAULT).mkdir()
    (tmp_path / DEFAULT / "config.json").write_text("{}")
    assert located(Path(DEFAULT)) == Path(DEFAULT)


def test_commands_and_python_take_it_where_no_model_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").convert("RGB").save("a.png")
    assert main(["inspect", DEFAULT]) == 0
    assert main(["encode", "a.png", "-o", "latents"]) == 0
    assert main(["decode", "latents", "-o", "out"]) == 0
    assert main(["reconstruct", "a.png", "-o", "back"]) == 0
    for folder in ("out", "back"):
        with Image.open(f"{folder}/a.png") as image:
            assert image.size == (256, 256)
    vae = latent_ae.load()
    identity = vae.codec.identity
    assert find_model(identity, "another name") == str(MODELS[DEFAULT])
    assert vae.encode("a.png").tensor.shape == (1, 16, 32, 32)
