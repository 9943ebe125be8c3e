"""train/train_prior.py as it is run, with a diffusion model: stopped and gone on with, by processes, with bad input."""

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file

from benchmarks import digits_from_diffusion
from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.priors.settings import parse_prior_run
from latent_ae.priors.source import open_latents
from latent_ae.training.update import NonFiniteError
from tests.latent_dataset.made import make, settings
from tests.program.forked import PATIENCE, ROOT, fork
from tests.program.running import alone, environment, here, load_program, together

PROGRAM = ROOT / "train" / "train_prior.py"
STEPS = 20
TINY = ["--prior.width", "16", "--prior.depth", "1", "--prior.head_width", "8", "--prior.patch_size", "2"]
SHORT = ["--train.batch_size", "8", "--train.warmup_steps", "1", "--train.log_every_steps", "1"]
SAMPLING = ["--train.tracker", "none", "--prior.inference_steps", "2"]

pytestmark = pytest.mark.slow  # every run is a program


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All digits, by a tiny autoencoder of factor 2."""
    folder = tmp_path_factory.mktemp("digits")
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=32).save_pretrained(folder / "model")
    make(settings(folder / "model", folder / "latents", source="digits", part="heldout", shard_images=512))
    return folder / "latents"


def words(latents: Path, out: Path, *more: str) -> list[str]:
    run = ["--prior.kind", "diffusion", "--latents", str(latents), "--output_dir", str(out), "--name", "run"]
    run += ["--train.steps", str(STEPS)]
    return [*run, *TINY, *SHORT, *SAMPLING, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load_program(PROGRAM)


@pytest.fixture(scope="module")
def main(program: ModuleType) -> Callable[[list[str]], int]:
    return here(program)


@pytest.fixture(scope="module")
def whole(latents: Path, main: Callable[[list[str]], int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates without interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert main(words(latents, out, "--train.sample_every_steps", "10")) == 0
    return out / "run"


def test_it_leaves_a_pipeline_samples_and_metrics(whole: Path) -> None:
    assert {path.name for path in (whole / "pipeline").iterdir()} == {
        *("README.md", "model_index.json", "samples.png", "scheduler", "transformer", "vae")
    }
    for picture in (whole / "pipeline" / "samples.png", whole / "samples" / "step-00000010.png"):
        with Image.open(picture) as image:
            assert image.width > 16 * 32
            assert image.height > 10 * 32
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == STEPS


def test_a_run_that_was_stopped_goes_on_to_the_last_bit(latents: Path, whole: Path, tmp_path: Path) -> None:
    argv = words(latents, tmp_path)
    process = fork(PROGRAM, argv, environment())
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + PATIENCE
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "SIGTERM: saved after step" in out
    done = alone(argv, PROGRAM)
    assert done.returncode == 0, done.stderr
    assert "359 latents of 2x16x16, 10 classes" in done.stdout
    assert "going on after step" in done.stdout
    assert "stock diffusers loads it and draws the same images" in done.stdout
    ours, theirs = weights(tmp_path / "run"), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_run_stays_as_it_is(
    latents: Path, whole: Path, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(latents, whole.parent)
    assert main(argv) == 0
    assert "is finished; --name starts another run" in capsys.readouterr().out
    assert main([*argv, "--train.learning_rate", "1"]) == 2
    assert "train.learning_rate: 0.001 -> 1.0" in capsys.readouterr().err


def test_the_benchmark_knows_digits_from_what_is_none(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(whole / "pipeline"), "--draws", "20", "--inference-steps", "2"]
    assert digits_from_diffusion.main(argv) == 0
    line = json.loads(capsys.readouterr().out)
    assert len(line["recognised"]) == 3
    for share in line["recognised"].values():
        assert share["real"] > 0.9
        assert share["draws_most_likely"] < 0.5  # after so few updates


def test_two_processes_train_what_one_trains(latents: Path, whole: Path, tmp_path: Path) -> None:
    done = together(words(latents, tmp_path), PROGRAM)
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path / "run"), weights(whole)
    for name in theirs:  # sums in another order
        assert torch.allclose(ours[name], theirs[name], atol=2e-5), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "error: --latents DIR, made by encode-dataset, is required"),
        (["--latents", "nowhere"], "error: nowhere is not a data set of latents: it has no manifest.json"),
        (["--latents", "x", "--train.stepps", "3"], "did you mean --train.steps?"),
        (["--latents", "x", "--prior.width", "10"], "must be a multiple of prior.head_width 32"),
    ],
)
def test_wrong_settings_are_one_line(
    given: list[str],
    message: str,
    main: Callable[[list[str]], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--prior.kind", "diffusion", *given, "--output_dir", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_ends_the_run(
    latents: Path, main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(latents, tmp_path, "--train.learning_rate", "1e30", "--train.max_grad_norm", "null")
    assert main(argv) == 1
    errors = capsys.readouterr().err
    assert "is not finite; no update was made" in errors
    assert not (tmp_path / "run" / "pipeline").exists()


def training(program: ModuleType, latents: Path, accelerator: Any) -> Any:
    """The program's `PriorTraining`, at its start."""
    config, *_ = parse_prior_run(words(latents, Path("nowhere")))
    source = open_latents(latents, None, seed=0)
    prior = config.prior.build(source, seed=0)
    return program.PriorTraining(config, accelerator, SimpleNamespace(signal=None), source, prior)


def test_draws_are_made_where_the_network_is(program: ModuleType, latents: Path) -> None:
    """`meta` stands for a GPU, where training moves the numbers of its schedule."""
    device = torch.device("meta")
    accelerator = SimpleNamespace(device=device, prepare_model=lambda it: it, prepare_optimizer=lambda it: it)
    trained = training(program, latents, accelerator)
    there = torch.zeros(1, 2, 16, 16, device=device)
    trained.prior.scheduler.add_noise(there, there, torch.zeros(1, dtype=torch.int64, device=device))
    pipeline = trained.prior.pipeline(trained.state.averaged())
    for module in (pipeline.transformer, pipeline.vae):
        assert {parameter.device for parameter in module.parameters()} == {device}
    assert pipeline.scheduler.alphas_cumprod.device.type == "cpu"


def test_a_scaled_gradient_that_overflows_moves_no_average(program: ModuleType, latents: Path) -> None:
    """A GradScaler of the CPU stands for CUDA's, before the fused AdamW that training uses."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trained = training(program, latents, accelerator)
    accelerator.unscale_gradients = lambda: accelerator.scaler.unscale_(trained.state.optimizer)  # as on CUDA
    overflows = [True]
    hook = trained.state.network.proj_out_2.weight.register_hook(lambda grad: grad * math.inf if overflows[0] else grad)
    batches = trained.updates()
    trained.update(next(batches))
    assert trained.state.checkpoint(accelerator, "").values["ema_updates"] == 0
    assert accelerator.scaler.get_scale() == 2.0
    overflows[0] = False
    trained.update(next(batches))
    assert trained.state.checkpoint(accelerator, "").values["ema_updates"] == 1
    overflows[0] = True
    trained.update(next(batches))  # down to a scale of 1
    with pytest.raises(NonFiniteError, match="overflow at every loss scale; use bf16"):
        trained.update(next(batches))
    hook.remove()
