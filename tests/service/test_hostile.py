"""A process of its own answers everything that strangers send, in little time and memory."""

import json
from pathlib import Path

import pytest

from tests.program.forked import fork
from tests.program.running import environment

from .hostile import write_cases

MOST_SECONDS = 5.0
MOST_MIB = 512.0
"""by which the peak may grow, over all uploads together"""


@pytest.mark.slow
def test_whatever_is_sent_is_answered_rightly_soon_and_in_little_memory(tmp_path: Path) -> None:
    count = write_cases(tmp_path)
    done = fork("tests.service.hostile:main", [str(tmp_path)], environment()).finished()
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == count
    assert [answer for answer in answers if answer["outcome"] not in answer["right"]] == []
    assert [answer for answer in answers if answer["seconds"] > MOST_SECONDS] == []
    assert sum(answer["MiB"] for answer in answers) < MOST_MIB, sorted(answers, key=lambda answer: -answer["MiB"])[:5]
