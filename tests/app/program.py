"""The app as a program of its own."""

import importlib
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.program.forked import PATIENCE, ROOT, Forked, fork
from tests.program.running import PYTHON, environment

APP = ROOT / "app"
ADDRESS = re.compile(r"^serving on (http\S+)$", re.MULTILINE)


def import_app() -> None:
    """What app.py imports once its command line is read, too."""
    for name in ("page", "launch", "tabs.examples"):
        importlib.import_module(f"latent_ae.app.{name}")


def main(argv: list[str]) -> int:
    """`app/app.py`."""
    status: int = importlib.import_module("latent_ae.cli.serve").main(argv)
    return status


@contextmanager
def running(*arguments: object, cwd: Path) -> Iterator[tuple[Forked, str]]:
    """The program on a free port, and its address once it has said it."""
    argv = ["--port", "0", *map(str, arguments)]
    given = environment(TMPDIR=str(cwd))
    process = fork("tests.app.program:main", argv, given, folder=cwd, imported="tests.app.program:import_app")
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := ADDRESS.search(process.said())):
            assert process.poll() is None, process.said()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process, found[1]
    finally:
        process.kill()


@contextmanager
def started(*arguments: object, cwd: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The same as a user starts it, with the seconds that imports take."""
    command = [*PYTHON, str(APP / "app.py"), "--port", "0", *map(str, arguments)]
    given = environment(TMPDIR=str(cwd))
    process = subprocess.Popen(command, cwd=cwd, env=given, stdout=-1, stderr=-1, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := ADDRESS.search(line):
                yield process, found[1]
                break
        else:
            raise AssertionError(said + process.communicate()[1])
    finally:
        process.kill()
        process.communicate()
