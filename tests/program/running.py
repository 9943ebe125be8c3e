"""Running train/train.py as its users do, small."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent
TRAIN = ROOT / "train" / "train.py"
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


def launch(argv: list[str], launcher: list[str] | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run to the end in a process of its own."""
    command = [*(launcher or [sys.executable]), str(TRAIN), *argv]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=280)


def start(argv: list[str], launcher: list[str] | None = None) -> "subprocess.Popen[str]":
    """Start, to be interrupted."""
    command = [*(launcher or [sys.executable]), str(TRAIN), *argv]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(process: "subprocess.Popen[str]", folder: Path, steps: int) -> None:
    """SIGKILL a run once it has logged so many steps."""
    file = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
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
