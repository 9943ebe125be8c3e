"""What the programs set for their process, switched on and off in turns: prints one JSON line with the ratios.

    python benchmarks/process.py --turns 5

Each turn is a process of its own, once as a program is started and once without: `latent_ae.deferred_imports` for the
time from start to exit, huge pages (`latent_ae.allocator`) for the time of work. Processor time and wall time are of
the work alone, but for a start. Progress goes to stderr.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import device_name, rounded

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
START = {
    True: "import sys; from latent_ae.cli import program; sys.exit(program())",
    False: "import sys; from latent_ae.cli import main; sys.exit(main())",
}
RUNS = 4
"""of a piece of work in a turn, of which the fastest counts: the first one loads what torch loads lazily"""
Work = Callable[[], object]


def normalisation() -> Work:
    """Group normalisation and SiLU of 128x1024x1024 in bf16, as in a decoder of 1024 px."""
    values, weight = torch.randn(1, 128, 1024, 1024).bfloat16(), torch.ones(128).bfloat16()
    return lambda: F.silu(F.group_norm(values, 32, weight, weight))


def training() -> Work:
    """Our update of benchmarks/train_step.py: the preset photos-f4, 4 images of 128 px, bf16."""
    from benchmarks.train_step import OurStep, Setup  # noqa: PLC0415 - each turn imports what it measures

    ours = OurStep(Setup("photos-f4", 128, 4, "bf16", "random_features", False, True, torch.device("cpu")))
    return lambda: ours.step(1)


def codec(side: int, preset: str) -> Work:
    """A reconstruction of one image, `auto` to decode."""
    import numpy as np  # noqa: PLC0415

    from latent_ae.config import ModelConfig  # noqa: PLC0415
    from latent_ae.inference import Codec  # noqa: PLC0415
    from latent_ae.models import build_autoencoder  # noqa: PLC0415

    model = build_autoencoder(ModelConfig(preset=preset), seed=0, resolution=64)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ours = Codec(model, name=preset)
    return lambda: ours.reconstruct([image])


WORK: dict[str, Callable[[], Work]] = {
    "normalisation": normalisation,
    "training step": training,
    "codec, sd, 256 px": lambda: codec(256, "sd"),
    "codec, photos-f4, 1024 px": lambda: codec(1024, "photos-f4"),
}


def child(name: str) -> dict[str, float]:
    """The best of some runs of a piece of work in this process, and the process's peak of memory."""
    work, seconds = WORK[name](), []
    for _ in range(RUNS):
        start = time.process_time(), time.perf_counter()
        work()
        seconds.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": min(cpu for cpu, _ in seconds), "wall": min(wall for _, wall in seconds), "peak_mib": peak}


def worked(name: str, on: bool) -> dict[str, float]:
    """A turn of work."""
    run = subprocess.run(  # noqa: S603 - this script
        [sys.executable, __file__, "--child", name],
        env={**os.environ, HUGE_PAGES: str(int(on))},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, float] = json.loads(run.stdout)
    return result


def started(folder: Path, on: bool) -> dict[str, float]:
    """A turn of `latent-ae encode` of one small image, from start to exit."""
    command = ["encode", str(folder / "image.png"), "--model", str(folder / "model"), "-o"]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-c", START[on], *command, out], check=True, capture_output=True)  # noqa: S603
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": wall}


def compare(turn: Callable[[bool], dict[str, float]], turns: int) -> dict[str, list[float]]:
    """For each figure the medians with and without, and the ratio of the medians."""
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(turns):
        for on in (True, False) if number % 2 else (False, True):
            found[on].append(turn(on))
    medians = {on: {key: statistics.median(each[key] for each in found[on]) for key in found[on][0]} for on in found}
    return {
        key: [rounded(value) for value in (with_it, medians[False][key], with_it / medians[False][key])]
        for key, with_it in medians[True].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="of each comparison (default: 5)")
    parser.add_argument("--only", choices=["start", *WORK], help="one comparison (default: all)")
    parser.add_argument("--child", choices=WORK, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child)))
        return
    names = [arguments.only] if arguments.only else ["start", *WORK]
    line: dict[str, object] = {"benchmark": "process", "turns": arguments.turns, "threads": torch.get_num_threads()}
    line |= {"device": device_name(torch.device("cpu")), "figures": "with, without, ratio"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "start" in names:
            from latent_ae.config import ModelConfig  # noqa: PLC0415
            from latent_ae.models import build_autoencoder  # noqa: PLC0415

            build_autoencoder(ModelConfig(preset="photos-f4"), seed=0, resolution=64).save_pretrained(folder / "model")
            Image.new("RGB", (128, 96), "teal").save(folder / "image.png")
        for name in names:
            print(name, file=sys.stderr)

            def turn(on: bool, name: str = name) -> dict[str, float]:
                return started(folder, on) if name == "start" else worked(name, on)

            line[name] = compare(turn, arguments.turns)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
