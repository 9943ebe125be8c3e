"""`latent-ae inspect` of all that the programs write, and of what is given to them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.parts import encoder_identity
from latent_ae.models.token_prior import build_network
from tests.cli.conftest import Run
from tests.data.images import noise_image
from tests.latent_dataset.made import make, settings


@pytest.fixture(scope="module")
def things(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind."""
    here = tmp_path_factory.mktemp("things")
    shutil.copytree(models / "kl", here / "run" / "model")
    (here / "run" / "config.yaml").write_text("train: {steps: 780}\ndata: {source: folder, path: pictures}\n")
    (here / "run" / "evaluation.json").write_text(json.dumps({"metrics": {"psnr": {"value": 31.5}}}))
    (checkpoint := here / "run" / "checkpoints" / "step-00000500").mkdir(parents=True)
    for name in ("trainer.json", "manifest.json"):
        (checkpoint / name).write_text("{}")
    (here / "started").mkdir()
    (here / "started" / "config.yaml").write_text("latents: dataset\n")
    shutil.copytree(models / "kl", here / "pipeline" / "vae")
    index = {"_class_name": "DiTPipeline", "vae": ["diffusers", "AutoencoderKL"], "safety": [None, None]}
    (here / "pipeline" / "model_index.json").write_text(json.dumps(index))
    prior = HierarchicalPrior(channels=2, side=8, width=8, level_channels=2, encoder_identity="ab")
    prior.save_pretrained(here / "prior")
    build_network(8, 2, (0, 3), "ab", width=8, depth=1, heads=1).save_pretrained(here / "codes")
    (here / "onnx" / "vae_encoder").mkdir(parents=True)
    (here / "onnx" / "vae_encoder" / "model.onnx").write_bytes(b"12345")
    (here / "encoder.pt2").write_bytes(b"123")
    tensors = {"encoder.conv_in.weight": torch.zeros(2, 3), "decoder.conv_in.bias": torch.zeros(4).half()}
    save_file(tensors, here / "vae.safetensors", metadata={"format": "pt"})
    torch.save({}, here / "vae.ckpt")
    (here / "pictures").mkdir()
    for seed in range(8):
        noise_image(seed, 20, 10).save(here / "pictures" / f"{seed}.png")
    make(settings(here / "run" / "model", here / "dataset", path=here / "pictures"))
    return here


TOLD: dict[str, dict[str, str]] = {
    "run": {
        "is": "the folder of a run",
        "result": "{here}/run/model",
        "updates": "780",
        "last checkpoint": "step-00000500",
        "data": "folder pictures",
        "held-out psnr": "31.5",
    },
    "started": {"is": "the folder of a run", "result": "not finished yet", "last checkpoint": "-", "data": "dataset"},
    "run/checkpoints/step-00000500": {"is": "a checkpoint of a run", "step": "500"},
    "run/model": {
        "is": "a model of diffusers",
        "class": "AutoencoderKL",
        "factor": "2",
        "in_channels": "1",
        "latent_channels": "2",
        "parameters": "{parameters}",
    },
    "pipeline": {"is": "a pipeline of diffusers", "class": "DiTPipeline", "vae": "AutoencoderKL"},
    "prior": {"is": "a prior of latents", "channels": "2", "side": "8", "encoder_identity": "ab"},
    "codes": {"is": "a prior of codes", "codebook_size": "8", "grid": "[2, 2]", "classes": "[0, 3]"},
    "onnx": {"is": "an export for ONNX", "bytes": "5"},
    "encoder.pt2": {"is": "an export for torch.export", "bytes": "3"},
    "vae.safetensors": {
        "is": "a single file with an autoencoder",
        "tensors": "2",
        "parameters": "10",
        "dtypes": "F16, F32",
        "metadata format": "pt",
    },
    "vae.ckpt": {"is": "a file of tensors by torch.save"},
    "pictures/0.png": {"is": "a picture", "format": "PNG", "size": "10x20", "mode": "RGB"},
    "pictures": {"is": "a folder of pictures", "pictures": ".png (8)"},
    "dataset": {"is": "a data set of latents", "state": "complete", "encoder": "{identity}"},
}


@pytest.mark.parametrize("name", TOLD)
def test_a_thing_is_told_with_its_facts(name: str, things: Path, models: Path, run: Run) -> None:
    status, said, errors = run("inspect", things / name)
    assert (status, errors) == (0, [])
    model = AutoencoderKL.from_pretrained(models / "kl")
    known = {
        "here": str(things),
        "parameters": sum(each.numel() for each in model.parameters()),
        "identity": encoder_identity(model),
    }
    for fact, value in TOLD[name].items():
        line = next(line for line in said.splitlines() if line.startswith(f"{fact} "))
        assert line.removeprefix(fact).strip() == value.format(**known)


def test_several_things_and_what_is_damaged(things: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    words = (things / "run", tmp_path / "model", things / "vae.ckpt", "--json", tmp_path / "told.json")
    status, said, errors = run("inspect", *words)
    assert status == 1
    assert said.count("\n\n") == 1
    (line,) = errors
    assert line.startswith(f"{tmp_path / 'model'}: {tmp_path / 'model' / 'config.json'} is damaged: ")
    told = json.loads((tmp_path / "told.json").read_text())
    assert [each.get("is", "damaged") for each in told] == [
        "the folder of a run",
        "a file of tensors by torch.save",
        "damaged",
    ]
