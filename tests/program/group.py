"""Several runs in one group of two processes, one after the other, each with a bug or without."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from latent_ae.training import data
from tests.program.forked import Group
from tests.program.running import TRAIN, environment, load_program
from tests.program.variants import SOON_DEAD


def run_unwrapped(patch: pytest.MonkeyPatch) -> None:
    """The forward goes around the module that synchronises gradients."""
    patch.setattr("accelerate.Accelerator.prepare_model", lambda _, model: model)


def load_unsharded(patch: pytest.MonkeyPatch) -> None:
    """Every process reads what the first one reads."""
    own = data.training_loader
    patch.setattr(data, "training_loader", lambda samples, **given: own(samples, **{**given, "rank": 0}))


BUGS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "": lambda patch: None,
    "unwrapped": run_unwrapped,
    "unsharded": load_unsharded,
}


def run_in_group(jobs: list[tuple[str, list[str]]], folder: Path) -> None:
    """Run all jobs, which are the name of a bug or "" and the arguments of train/train.py, on two processes."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    done = Group("tests.program.group:run_all", [str(file)], environment()).finished()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def run_all(argv: list[str]) -> None:
    """The jobs of a file, as one of the processes."""
    del os.environ["OMP_NUM_THREADS"]  # or the program would take every core
    torch.set_num_threads(1)
    train = load_program(TRAIN)
    for bug, given in json.loads(Path(argv[0]).read_text()):
        AcceleratorState._reset_state()
        GradientState._reset_state()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Accelerator, "end_training", lambda _: torch.distributed.barrier())  # the group stays
            patch.setattr("latent_ae.models.bottlenecks.quantizer.USAGE_DECAY", SOON_DEAD)
            BUGS[bug](patch)
            assert train.main(given) == 0
