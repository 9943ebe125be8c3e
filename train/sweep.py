"""Train one recipe with several values of some settings, and compare rate and distortion of the results.

    accelerate launch train/sweep.py --config NAME --vary FIELD=A,B,... [--FIELD VALUE ...]

    settings of all runs, checked -> for each run: train/train.py in a process of its own -> table and figure

Each run is in a folder of its own under runs/NAME-sweep/ and is one of train/train.py: it continues from its checkpoint
where it was interrupted, and a finished one ends at once. Under `accelerate launch` or `torchrun` every process starts
its own process of the run, with the same place in the group.
"""

if __name__ == "__main__":  # before the imports that it is for
    from latent_ae.cli.before_torch import leave_early
    from latent_ae.process import leave, own_process

    own_process()
    leave_early("sweep", __file__)

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from latent_ae.evaluation.rate_distortion import Row, summary, write_table
from latent_ae.training.engine import run_program
from latent_ae.training.signals import StopRequest
from latent_ae.training.sweep import Sweep, SweptRun, parse_sweep

TRAIN = Path(__file__).resolve().with_name("train.py")
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
"""torchrun's number of an attempt to start the group: processes meet under it, and each run needs one of its own"""
_POLL_SECONDS = 0.2


def main(argv: list[str] | None = None) -> int:
    """Run a sweep; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error, else 1."""
    return run_program(lambda: start(parse_sweep(sys.argv[1:] if argv is None else argv, TRAIN.parent / "configs")))


def start(sweep: Sweep) -> int:
    """Every run that is not finished, then the table. Returns the exit status."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    says, before = os.environ.get("RANK", "0") == "0", int(os.environ.get(ATTEMPT, "0")) * len(sweep.runs)
    rows, failed, files = list[Row](), list[Path](), list[Path]()
    with StopRequest() as stop:
        for number, run in enumerate(sweep.runs):
            if says:
                print(f"[{number + 1} of {len(sweep.runs)}] {run.run_dir}", flush=True)
            status = train(run, stop, attempt=before + number)
            if stop.signal is not None:
                return 128 + stop.signal
            if status and not alone:  # the other processes may still wait for this one in the run
                return status
            if status:
                failed.append(run.run_dir)
            elif says:
                rows.append(run.measured())
                files = write_table(sweep.folder, sweep.varied, rows)
    if rows:
        print(f"{summary(sweep.varied, rows)}\nwrote {', '.join(map(str, files))}")
    if failed:
        print(f"error: not in the table, as they failed: {', '.join(map(str, failed))}", file=sys.stderr)
    return 1 if failed else 0


def train(run: SweptRun, stop: StopRequest, *, attempt: int) -> int:
    """One run in a process of its own, which is told of a signal to stop. Returns its exit status."""
    words, environment = [sys.executable, str(TRAIN), *run.argv], {**os.environ, ATTEMPT: str(attempt)}
    process = subprocess.Popen(words, env=environment)  # noqa: S603  # this program's own
    told = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=_POLL_SECONDS)
        if stop.signal is not None and not told:
            process.send_signal(stop.signal)
            told = True


if __name__ == "__main__":
    leave(main())
