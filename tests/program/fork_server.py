"""A server that imports the programs of train/ once and forks a process for each job: see forked.py.

    python -m tests.program.fork_server DESCRIPTOR

It has one thread and computes nothing, so that what it forks finds modules, and nothing else that is not its own.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.program.forked import LONGEST_JOB
from tests.program.running import PROGRAMS, load_program

IN_A_RUN = ("datasets", "sklearn.datasets", "torchmetrics")
"""what is imported where it is first needed, and takes long"""
Main = Callable[[list[str]], object]


def serve(connection: socket.socket) -> None:
    """Fork a process for each job that comes, and say how it ended, until nobody is there to ask."""
    mains = import_all()
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, LONGEST_JOB, 2)
        if not message:
            break
        request = json.loads(message)
        if "ended" in request:
            answer = ended(request["ended"])
            children -= set() if answer is None else {request["ended"]}
        else:
            main = mains.get(request["program"]) or named(request["program"])
            prepare(request["imported"])
            answer = os.fork()
            if not answer:
                connection.close()
                become(request, descriptors, main)
            children.add(answer)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(json.dumps(answer).encode())
    for child in children:
        os.kill(child, signal.SIGKILL)


def import_all() -> dict[str, Main]:
    """What the programs import, at once or in a run; their main functions, by their files."""
    import torch

    mains: dict[str, Main] = {str(file): load_program(file).main for file in PROGRAMS}
    for name in IN_A_RUN:
        importlib.import_module(name)
    torch.set_num_threads(1)
    return mains


def ended(child: int) -> int | None:
    """The exit status, negative for a signal; None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def become(job: Mapping[str, Any], descriptors: list[int], main: Main) -> None:
    """Run a job in this process, which was forked for it, and end."""
    status = 1
    try:
        for number, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        if job["file_bytes"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
        forget()
        sys.argv = [job["program"], *job["argv"]]
        status = run(main, job["argv"])
        # As at the end of an interpreter: threads are waited for, and what wants to be told of the end is.
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@cache
def prepare(imports: str | None) -> None:
    """Import what all later jobs will find."""
    if imports is not None:
        named(imports)()
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, "a lock that another thread holds would never be free in what is forked"
    gc.collect()
    gc.freeze()  # so that a collection does not copy the pages of everything


def named(function: str) -> Callable[..., Any]:
    """The function that MODULE:NAME names."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def run(main: Main, argv: list[str]) -> int:
    """The status that `sys.exit(main(argv))` ends with."""
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    assert status is None or isinstance(status, int)
    return status or 0


def forget() -> None:
    """Python draws its own random state anew after a fork; numpy's, and the temporary folder, would be the server's."""
    import numpy as np

    np.random.seed()
    tempfile.tempdir = None


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as mine:
        serve(mine)
