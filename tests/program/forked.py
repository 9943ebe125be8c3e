"""Programs in processes of their own, without the seconds that imports take in each.

A server (fork_server.py) has imported everything and forks a process for each job, which is then as the program's own
would be: with the environment, the working folder, the limit and the streams that it is given.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent.parent
LONGEST_JOB = 1 << 20
"""bytes of a request"""
PATIENCE = 280
"""seconds until a process is given up"""
IMPORTED_WITH = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow would start one
}
"""the environment in which the server imports"""
Finished = subprocess.CompletedProcess[str]


class Forked:
    """A process that the server forked, with what the tests use of subprocess.Popen."""

    def __init__(self, server: "_Server", job: dict[str, Any]) -> None:
        self.args: list[str] = job["argv"]
        self.returncode: int | None = None
        self._server = server
        self._said = [os.memfd_create(name) for name in ("out", "err")]
        for descriptor in self._said:
            weakref.finalize(self, os.close, descriptor)
        self.pid: int = server.ask(job, self._said)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status. Raises TimeoutExpired, and leaves the process."""
        if self.poll() is None:
            watched = os.pidfd_open(self.pid)
            try:
                if not select.select([watched], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout)
            finally:
                os.close(watched)
        status = self.poll()
        assert status is not None
        return status

    def said(self) -> str:
        """What came out so far, of both streams."""
        return "".join(map(_content, self._said))

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """What came out until the end. Raises TimeoutExpired, and leaves the process."""
        self.wait(timeout)
        return _content(self._said[0]), _content(self._said[1])

    def finished(self, timeout: float = PATIENCE) -> Finished:
        """How it ended. Kills it and raises TimeoutExpired if that takes too long."""
        try:
            return subprocess.CompletedProcess(self.args, self.wait(timeout), *self.communicate())
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def send_signal(self, number: int) -> None:
        """To the process, if it has not ended."""
        if self.poll() is None:  # the server has not waited for it, so that the id is still its own
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Group:
    """Processes with the variables of torchrun's, which meet in a store of this one as those in their launcher's."""

    def __init__(
        self,
        program: str | Path,
        argv: list[str],
        environment: dict[str, str],
        processes: int = 2,
        *,
        folders: list[Path] | None = None,
    ) -> None:
        """`folders` are the working folders of each, this process's if not given."""
        self._store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        shared = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RUN_ID": "none",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "GROUP_RANK": "0",
            "GROUP_WORLD_SIZE": "1",
            **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), str(processes)),
        }
        own = [dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), str(rank)) for rank in range(processes)]
        self.ranks = [
            fork(program, argv, {**environment, **shared, **each}, folder=folder)
            for each, folder in zip(own, folders or [None] * processes, strict=True)
        ]

    def finished(self, timeout: float = PATIENCE) -> Finished:
        """The first status but 0, and what all said. Where one fails or time is up the others are killed."""
        deadline = time.monotonic() + timeout
        while any(rank.poll() is None for rank in self.ranks):
            if any(rank.returncode for rank in self.ranks) or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        failed = [rank.returncode for rank in self.ranks if rank.returncode]
        self.kill()
        ends = [rank.finished() for rank in self.ranks]
        status = [*failed, *(end.returncode for end in ends if end.returncode), 0][0]
        said = ("".join(said) for said in zip(*((end.stdout, end.stderr) for end in ends), strict=True))
        return subprocess.CompletedProcess(self.ranks[0].args, status, *said)

    def kill(self) -> None:
        """SIGKILL for all."""
        for rank in self.ranks:
            rank.kill()


def fork(
    program: str | Path,
    argv: list[str],
    environment: dict[str, str],
    *,
    folder: Path | None = None,
    file_bytes: int | None = None,
    imported: str | None = None,
) -> Forked:
    """Start a program of train/, or the function MODULE:NAME of the tests, which takes the arguments as a list.

    The environment has to be one that torch may be told after it was imported. `folder` is the working folder, this
    process's if not given. No file may grow beyond `file_bytes`. The server first calls the function `imported`, once.
    """
    job = {"program": str(program), "argv": argv, "folder": str(folder or Path.cwd()), "environment": environment}
    return Forked(_server(), {**job, "file_bytes": file_bytes, "imported": imported})


class _Server:
    """The server of this process, and the way to it."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.program.fork_server", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, **IMPORTED_WITH},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the tests, which end it
            )

    def ask(self, request: dict[str, Any], descriptors: list[int] | None = None) -> Any:
        """Its answer."""
        socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors or [])
        return json.loads(self._connection.recv(LONGEST_JOB))

    def close(self) -> None:
        """It ends with the way to it, and ends what still runs."""
        self._connection.close()
        self._process.wait()


@cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server


def _content(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()
