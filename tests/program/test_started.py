"""Programs that the other tests fork, started by their files as users start them."""

from pathlib import Path

import pytest

from tests.program.running import PROGRAMS, PYTHON, TRAIN, launch


@pytest.mark.parametrize("program", [file for file in PROGRAMS if file != TRAIN], ids=lambda file: file.stem)
def test_what_is_missing_is_one_line_and_the_programs_status(program: Path) -> None:
    done = launch([], PYTHON, program)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --")
    assert " is required" in line
