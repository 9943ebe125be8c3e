"""Running train/train.py as its users do, small."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from tests.program.forked import PATIENCE, ROOT, Finished, Forked, Group, fork

TRAIN = ROOT / "train" / "train.py"
PROGRAMS = [
    TRAIN,
    *(ROOT / "train" / f"{name}.py" for name in ("sweep", "encode_dataset", "train_prior")),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

TINY = [
    *("--config", "kl-digits", "--model.preset", "tiny", "--data.resolution", "16", "--train.batch_size", "8"),
    *("--train.learning_rate", "1e-3", "--train.warmup_steps", "2", "--train.log_every_steps", "1"),
    *("--model.start", "random", "--model.start_logvar", "0", "--train.final_learning_rate_share", "0"),
    *("--train.tracker", "none", "--evaluation.max_images", "16", "--evaluation.latent_images", "32"),
    *("--evaluation.size", "16", "--evaluation.perceptual", "none"),
]
"""a run of the digits recipe on 1x16x16 images that takes seconds; steps and folder are the test's"""


def arguments(folder: Path, steps: int, *more: str) -> list[str]:
    return [*TINY, "--output_dir", str(folder), "--name", "run", "--train.steps", str(steps), *more]


def environment(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "MASTER_"))}
    return {**clean, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", **changes}


def load_program(file: Path) -> ModuleType:
    """A program of train/ as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def here(program: ModuleType) -> Callable[[list[str]], int]:
    """`main(argv)` of a program, as if each call were the first in its process."""

    def fresh() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    def main(argv: list[str]) -> int:
        fresh()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
                patch.delenv(name, raising=False)
            result: int = program.main(argv)
        fresh()
        return result

    return main


PYTHON = [sys.executable]


def launch(argv: list[str], launcher: list[str], program: Path = TRAIN, **changes: str) -> Finished:
    """Run to the end as users do, by PYTHON or what else starts processes, with all the seconds that imports take."""
    command = [*launcher, str(program), *argv]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=PATIENCE)


def alone(argv: list[str], program: Path = TRAIN) -> Finished:
    """Run to the end in a process of its own."""
    return fork(program, argv, environment()).finished()


def together(argv: list[str], program: Path = TRAIN) -> Finished:
    """Run to the end in two processes."""
    return Group(program, argv, environment()).finished()


def start(argv: list[str]) -> Forked:
    """Start in a process of its own, to be interrupted."""
    return fork(TRAIN, argv, environment())


def kill_after(process: Forked, folder: Path, steps: int) -> None:
    """SIGKILL a run once it has logged so many steps."""
    file = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (file.exists() and len(file.read_text().splitlines()) >= steps):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without the speed, which is the machine's."""
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    clocks = ("images_per_second", "data_wait_share")
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines]


def state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights, average and optimizer state of a checkpoint."""
    path = folder / "run" / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file.stem}/{name}": tensor.clone()  # the file may be harmed while it is mapped
        for file in path.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
