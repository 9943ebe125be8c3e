"""A loss or gradient that is not finite stops every process before the update."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from latent_ae.data import Batch
from latent_ae.training.distributed import start_accelerator
from latent_ae.training.update import NonFiniteError
from tests.conftest import make_objective
from tests.program.forked import Group
from tests.program.running import arguments, environment, state
from tests.training.test_preflight import WEIGHTS
from tests.training.tiny import Update


def test_a_diverging_run_stops_names_the_samples_and_keeps_the_last_good_checkpoint(
    main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(tmp_path, 9, "--train.checkpoint_every_steps", "1", "--train.schedule", "constant")
    assert main([*argv, "--train.learning_rate", "1e20", "--train.warmup_steps", "0"]) == 1
    assert "is not finite; no update was made" in capsys.readouterr().err
    lost = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert lost["step"] >= 1
    assert len(lost["sample_ids"]) == 8
    assert all(name.startswith("digits/") for name in lost["sample_ids"])
    assert state(tmp_path, lost["step"]).keys()
    assert not (tmp_path / "run" / "checkpoints" / f"step-{lost['step'] + 1:08d}").exists()


def one_rank(_: list[str]) -> None:
    """A process whose images are what they should be if it is the first, and not if it is the second."""
    accelerator = start_accelerator(mixed_precision="no", accumulation=1)
    rank = accelerator.process_index
    for value in ("nan", "inf"):
        objective = make_objective()
        update = Update(objective)
        before = [parameter.detach().clone() for parameter in objective.parameters()]
        pixels = torch.full((2, 1, 16, 16), float(value) if rank == 1 else 0.5)
        batch = Batch(pixels, [2 * rank, 2 * rank + 1], [f"{rank}a", f"{rank}b"], [])
        try:
            update.generator(weights=WEIGHTS, batches=[batch])
        except NonFiniteError as error:
            untouched = all(map(torch.equal, before, objective.parameters()))
            print(f"{value}: rank {rank} stopped, ids {error.sample_ids}, untouched {untouched}", flush=True)
    accelerator.end_training()


@pytest.mark.slow  # a group of two processes
def test_one_rank_stops_all() -> None:
    run = Group("tests.program.test_nonfinite:one_rank", [], environment()).finished()
    assert run.returncode == 0, run.stderr
    for value, rank in product(("nan", "inf"), (0, 1)):
        assert f"{value}: rank {rank} stopped, ids ['1a', '1b'], untouched True" in run.stdout


def test_a_non_finite_gradient_of_a_finite_loss_stops_too(objective) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    update = Update(objective)
    weight = objective.model.autoencoder.decoder.conv_out.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    batch = Batch(torch.zeros(1, 1, 16, 16), [0], ["a"], [])
    with pytest.raises(NonFiniteError, match="gradient norm") as caught:
        update.generator(weights=WEIGHTS, batches=[batch])
    assert caught.value.sample_ids == ["a"]
    assert torch.equal(weight, before)
