"""Machines that do not share output_dir must not go on together: each would have the weights of another step."""

import shutil
from pathlib import Path

import pytest

from tests.program.forked import Group, fork
from tests.program.running import TRAIN, arguments, environment

pytestmark = pytest.mark.slow  # groups of two processes

CONSTANT = ["--train.schedule", "constant"]


def test_processes_that_find_different_checkpoints_all_end(tmp_path: Path) -> None:
    nodes = [tmp_path / "one", tmp_path / "two"]
    for node in nodes:
        node.mkdir()
    first = fork(TRAIN, arguments(Path("runs"), 2, *CONSTANT), environment(), folder=nodes[0]).finished()
    assert first.returncode == 0, first.stderr

    def refusals() -> list[str]:
        group = Group(TRAIN, arguments(Path("runs"), 4, *CONSTANT), environment(), folders=nodes)
        try:
            assert [rank.wait(100) for rank in group.ranks] == [2, 2]
        finally:
            group.kill()
        said = [rank.communicate()[1] for rank in group.ranks]
        assert not any("Traceback" in text for text in said)
        return [line for text in said for line in text.splitlines() if line.startswith("error: ")]

    one, two = refusals()
    assert one == two
    assert "in output_dir runs (process 0: step 2, finished; process 1: no checkpoint): it must be one folder" in one

    # What one of them alone finds wrong ends all.
    shutil.copytree(nodes[0] / "runs", nodes[1] / "runs")
    (nodes[1] / "runs" / "run" / "checkpoints" / "step-00000002" / "ema.safetensors").write_bytes(b"")
    one, two = refusals()
    assert one == two
    assert "no checkpoint in runs/run/checkpoints is whole" in one
