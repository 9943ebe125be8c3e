"""A hierarchical prior as train/train_prior.py trains it, and what takes it. The run around it: test_train_prior.py."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from latent_ae.cli import main as latent_ae
from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.prior_loading import load_prior
from tests.latent_dataset.made import make, settings
from tests.program.forked import ROOT, fork
from tests.program.running import environment, here, load_program, together

PROGRAM = ROOT / "train" / "train_prior.py"
STEPS = 40
TINY = ["--prior.width", "16", "--prior.level_channels", "2", "--train.batch_size", "16", "--train.tracker", "none"]
SHORT = ["--train.warmup_steps", "2", "--prior.kl_warmup_steps", "5", "--train.log_every_steps", "1"]

pytestmark = pytest.mark.slow  # every run is a program


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, a tiny autoencoder of factor 2, and `latents`, its latents of the held-out digits on 16x16 pixels."""
    folder = tmp_path_factory.mktemp("digits")
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).save_pretrained(folder / "model")
    given = {"source": "digits", "part": "heldout", "resolution": 16, "shard_images": 512}
    make(settings(folder / "model", folder / "latents", **given))
    return folder


def words(made: Path, out: Path, *more: str) -> list[str]:
    run = ["--prior.kind", "hierarchy", "--latents", str(made / "latents"), "--output_dir", str(out), "--name", "run"]
    run += ["--train.steps", str(STEPS)]
    return [*run, *TINY, *SHORT, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "prior" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], int]:
    return here(load_program(PROGRAM))


@pytest.fixture(scope="module")
def whole(made: Path, main: Callable[[list[str]], int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates without interruption."""
    out = tmp_path_factory.mktemp("whole")
    every = ("--train.sample_every_steps", "20", "--train.checkpoint_every_steps", "20")
    assert main(words(made, out, *every)) == 0
    return out / "run"


def test_it_leaves_a_prior_pictures_and_metrics(whole: Path) -> None:
    assert {path.name for path in (whole / "prior").iterdir()} == {
        *("README.md", "config.json", "diffusion_pytorch_model.safetensors", "levels.png", "samples.png")
    }
    assert (whole / "samples" / "step-00000020.png").is_file()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    assert {"loss", "bound_nats", "kl_level_1", "kl_level_4", "grad_norm", "lr"} <= lines[0].keys()
    assert lines[0]["kl_level_4"] == 0 < lines[-1]["kl_level_4"], "from its start, levels come into use"


def test_it_begins_with_the_statistics_of_the_latents(whole: Path, made: Path) -> None:
    prior = load_prior(str(whole / "prior"))
    latents = json.loads((made / "latents" / "stats.json").read_text())["latents"]
    assert prior.mean.flatten().tolist() == pytest.approx(latents["channel_mean"])
    assert prior.std.flatten().tolist() == pytest.approx(latents["channel_std"])


def test_from_a_checkpoint_it_goes_on_to_the_last_bit(
    made: Path, whole: Path, main: Callable[[list[str]], int], tmp_path: Path
) -> None:
    halfway = str(whole / "checkpoints" / "step-00000020")
    assert main([*words(made, tmp_path), "--resume", halfway]) == 0
    ours, theirs = weights(tmp_path / "run"), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_damaged_prior_is_written_again_and_a_whole_one_is_finished(
    whole: Path, made: Path, main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    file = run / "prior" / "diffusion_pytorch_model.safetensors"
    content, limit = file.read_bytes(), file.stat().st_size - 1
    file.write_bytes(b"")
    full = fork(PROGRAM, words(made, tmp_path), environment(), file_bytes=limit).finished()
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1] == f"error: File too large: {run / 'prior'}"
    assert main(words(made, tmp_path)) == 0
    assert f"{file} is damaged: it is written again" in capsys.readouterr().out
    assert file.read_bytes() == content
    assert main(words(made, tmp_path)) == 0
    assert f"{run} is finished" in capsys.readouterr().out


def test_what_is_in_the_place_of_the_prior_is_refused_before_training(
    made: Path, main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "prior").mkdir(parents=True)
    (tmp_path / "run" / "prior" / "mine").write_text("mine")
    assert main(words(made, tmp_path)) == 2
    assert "prior is in the way of the result and has no config.json: move it away" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_two_processes_train_what_one_trains(made: Path, whole: Path, tmp_path: Path) -> None:
    done = together(words(made, tmp_path, "--train.accumulation", "2"), PROGRAM)
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path / "run"), weights(whole)
    for name in theirs:  # sums in another order
        assert torch.allclose(ours[name], theirs[name], atol=2e-5), name


def test_sample_and_likelihood_take_it(made: Path, whole: Path, tmp_path: Path) -> None:
    model, prior = str(made / "model"), str(whole / "prior")
    assert latent_ae(["sample", "-o", str(tmp_path / "a.png"), "--model", model, "--prior", prior, "--count", "4"]) == 0
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (2 * 16 + 2, 2 * 16 + 2)
    report = [
        "--importance-samples",
        "4",
        "--evaluation.max_images",
        "3",
        "--evaluation.size",
        "16",
        "--data.source",
        "digits",
    ]
    found = {}
    for name, more in (("normal", []), ("learned", ["--prior", prior])):
        file = tmp_path / f"{name}.json"
        assert latent_ae(["likelihood", model, *more, "--std", "0.5", *report, "--json", str(file)]) == 0
        found[name] = json.loads(file.read_text())
    assert found["learned"]["reconstruction"] == found["normal"]["reconstruction"]
    assert found["learned"]["kl"]["nats"] < found["normal"]["kl"]["nats"]  # random weights are far from N(0, 1)
    assert found["learned"]["elbo"]["nats"] > found["normal"]["elbo"]["nats"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "error: --latents DIR, made by encode-dataset, is required"),
        (["--latents", "x", "--prior.kl_warmup_steps", "9999"], "prior.kl_warmup_steps 9999 is more than train.steps"),
        (["--latents", "x", "--train.label_dropout", "0.1"], "unknown setting --train.label_dropout"),
    ],
)
def test_wrong_settings_are_one_line(
    given: list[str], message: str, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--prior.kind", "hierarchy", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
