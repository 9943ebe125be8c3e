"""Several runs in one group of processes, one after the other: a group takes longer to start than a tiny run.

    torchrun --nproc_per_node 2 tests/program/group.py JOBS.json

JOBS.json is a list of [name of a bug or "", arguments of train/train.py].
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latent_ae.training import data
from tests.program.running import ROOT, TORCHRUN, TRAIN, environment
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
    """Run all jobs on two processes. Raises CalledProcessError with what they said if one of them fails."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    command = [*TORCHRUN, str(Path(__file__)), str(file)]
    done = subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def _all(jobs: list[tuple[str, list[str]]]) -> None:
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    del os.environ["OMP_NUM_THREADS"]  # or the program would take every core
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    assert spec is not None
    assert spec.loader is not None
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    for bug, argv in jobs:
        AcceleratorState._reset_state()
        GradientState._reset_state()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Accelerator, "end_training", lambda _: torch.distributed.barrier())  # the group stays
            patch.setattr("latent_ae.models.bottlenecks.quantizer.USAGE_DECAY", SOON_DEAD)
            BUGS[bug](patch)
            assert train.main(argv) == 0


if __name__ == "__main__":
    _all(json.loads(Path(sys.argv[1]).read_text()))
