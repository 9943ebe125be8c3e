"""A program ends as Python ends one, with or without other processes beside it."""

import subprocess
import sys

import pytest

from tests.program.running import environment

PROGRAM = """
import atexit, sys, threading, time
from latent_ae.process import leave
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread done"))).start()
print("said", end=" ")
print("complained", file=sys.stderr, end="")
leave(143)
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_leaving_waits_for_threads_runs_what_is_due_and_loses_no_output(processes: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(WORLD_SIZE=processes), capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (143, "complained")
    assert ended.stdout == "said thread done\nat exit\n"
