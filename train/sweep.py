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
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from latent_ae.evaluation.rate_distortion import Row, summary, write_table
from latent_ae.training.engine import run_program
from latent_ae.training.signals import StopRequest
from latent_ae.training.sweep import Sweep, SweptRun, parse_sweep

TRAIN = Path(__file__).resolve().with_name("train.py")
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""of the environment: whether processes find each other through torchrun's own store"""
_POLL_SECONDS = 0.2


def main(argv: list[str] | None = None) -> int:
    """Run a sweep; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error, else 1."""
    return run_program(lambda: start(parse_sweep(sys.argv[1:] if argv is None else argv, TRAIN.parent / "configs")))


def start(sweep: Sweep) -> int:
    """Every run that is not finished, then the table. Returns the exit status."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    says = os.environ.get("RANK", "0") == "0"
    rows, failed, files = list[Row](), list[Path](), list[Path]()
    with StopRequest() as stop:
        for number, run in enumerate(sweep.runs):
            if says:
                print(f"[{number + 1} of {len(sweep.runs)}] {run.run_dir}", flush=True)
            status = train(run, stop, number=number)
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


def train(run: SweptRun, stop: StopRequest, *, number: int) -> int:
    """One run in a process of its own, which is told of a signal to stop. Returns its exit status."""
    words = [sys.executable, str(TRAIN), *run.argv]
    process = subprocess.Popen(words, env=os.environ | meeting_place(number))  # noqa: S603  # this program's own
    told = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=_POLL_SECONDS)
        if stop.signal is not None and not told:
            process.send_signal(stop.signal)
            told = True


def meeting_place(number: int) -> dict[str, str]:
    """The environment in which the processes of the run with a number find each other, and none of another run.

    torchrun's store still has the addresses of the run before. So rank 0 of each run has a store of its own, whose port
    the processes learn from torchrun's.
    """
    if os.environ.get(_AGENT_STORE) != str(True):
        return {}
    # Not before the settings are known to be right; torch's stub does not say that the name is public.
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(days=1))
    key = f"sweep/{os.environ['TORCHELASTIC_RESTART_COUNT']}/{number}"
    if os.environ["RANK"] == "0":
        with socket.create_server(("", 0)) as free:
            store.set(key, str(free.getsockname()[1]))
    return {_AGENT_STORE: str(False), "MASTER_PORT": store.get(key).decode()}


if __name__ == "__main__":
    leave(main())
