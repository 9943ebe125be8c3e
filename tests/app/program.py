"""The app as a program of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "app" / "app.py"


@contextmanager
def running(*arguments: object, cwd: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program on a free port, and its address once it has said it."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "--port", "0", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"serving on (http\S+)", line):
                yield process, found[1]
                break
        else:
            raise AssertionError("".join(said) + process.stderr.read())
    finally:
        process.kill()
        process.communicate()
