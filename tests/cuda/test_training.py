"""train/train.py on a GPU: it learns in every precision, goes on after a stop, and leaves what a CPU reads."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from latent_ae.training.objective import weighted_sum
from tests.conftest import make_objective
from tests.program.forked import ROOT
from tests.program.running import PYTHON, arguments, launch, metrics, state
from tests.program.variants import VARIANTS, every_variant
from tests.training.test_preflight import PIXELS, WEIGHTS

STEPS = 80
ACCELERATE = [PYTHON[0], "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_config.yaml")]


PRECISIONS = [
    ["--train.mixed_precision", "no"],
    ["--train.mixed_precision", "bf16"],
    ["--train.mixed_precision", "fp16"],
    ["--train.mixed_precision", "bf16", "--train.compile", "true"],
    ["--train.mixed_precision", "bf16", "--train.gradient_checkpointing", "true", "--train.accumulation", "2"],
]


def words(more: list[str]) -> str:
    return " ".join(word.removeprefix("--") for word in more)


@pytest.mark.parametrize("more", PRECISIONS, ids=words)
def test_a_run_learns_and_leaves_a_model_that_a_cpu_reads(more: list[str], tmp_path: Path) -> None:
    done = launch(arguments(tmp_path, STEPS, *more), ACCELERATE)
    assert done.returncode == 0, done.stderr
    assert "1 process on cuda" in done.stdout
    lines = metrics(tmp_path)
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 3
    stock = AutoencoderKL.from_pretrained(tmp_path / "run" / "model")
    assert all(torch.isfinite(weight).all() for weight in stock.parameters())


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@every_variant
def test_every_bottleneck_and_adversary_trains(variant: str, precision: str, tmp_path: Path) -> None:
    done = launch(arguments(tmp_path, 20, *VARIANTS[variant], "--train.mixed_precision", precision), PYTHON)
    assert done.returncode == 0, done.stderr
    lines = metrics(tmp_path)
    assert all(math.isfinite(value) for line in lines for value in line.values() if value is not None)
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """Not to the last bit: cuDNN's kernels add up in an order of their own."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    often = ["--train.checkpoint_every_steps", "10", "--train.mixed_precision", "no"]
    assert launch(arguments(whole, 20, *often), PYTHON).returncode == 0
    assert launch(arguments(parts, 20, *often), PYTHON).returncode == 0
    for folder in ("model", "checkpoints/step-00000020"):
        for file in (parts / "run" / folder).iterdir():
            file.unlink()
        (parts / "run" / folder).rmdir()
    done = launch(arguments(parts, 20, *often), PYTHON)
    assert done.returncode == 0, done.stderr
    assert "going on after step 10" in done.stdout
    one, other = state(whole, 20), state(parts, 20)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-2, atol=1e-3, msg=name)


def loss_and_gradients(device: str) -> tuple[float, dict[str, torch.Tensor]]:
    objective = make_objective().to(device)
    noise = torch.randn(len(PIXELS), 2, 8, 8, generator=torch.Generator().manual_seed(0))
    terms = objective(PIXELS.to(device), noise.to(device))
    loss = weighted_sum(terms.losses, WEIGHTS)
    loss.backward()
    return float(loss.detach()), {
        name: weight.grad.cpu() for name, weight in objective.named_parameters() if weight.requires_grad
    }


def test_losses_and_gradients_are_those_of_a_cpu() -> None:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        loss, gradients = loss_and_gradients("cuda")
    expected, expected_gradients = loss_and_gradients("cpu")
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
