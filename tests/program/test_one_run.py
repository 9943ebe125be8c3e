"""A run's folder has one run at a time, whatever program and however many processes."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from latent_ae.priors import PRIORS
from tests.program.forked import Group
from tests.program.running import TRAIN, arguments, environment, here, load_program, start

pytestmark = pytest.mark.slow  # programs beside one another

HOLDER = """
import sys
from pathlib import Path
from latent_ae.io.folder_lock import only_run
with only_run(Path(sys.argv[1]), instead="-"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", [None, *PRIORS])
def test_a_folder_that_another_run_holds_is_refused_before_anything_is_written(
    kind: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = TRAIN if kind is None else TRAIN.with_name("train_prior.py")
    more = [] if kind is None else ["--prior.kind", kind, "--latents", "nowhere"]
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert here(load_program(program))(["--output_dir", str(tmp_path), "--name", "run", *more]) == 2
        other.kill()
        other.communicate()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line == (
        f"error: another run (process {other.pid} on {socket.gethostname()}) is writing to {tmp_path / 'run'}: "
        "wait until it ends, end it, or give another --name"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_second_training_is_refused_until_the_first_is_gone_and_then_goes_on(tmp_path: Path, main) -> None:
    argv = arguments(tmp_path, 100_000, "--train.schedule", "constant", "--train.checkpoint_every_steps", "2")
    first = start(argv)
    try:
        checkpoints = tmp_path / "run" / "checkpoints"
        while not checkpoints.is_dir():
            assert first.poll() is None, first.communicate()[1]
        group = Group(TRAIN, argv, environment())  # none of its processes waits for another
        try:
            assert [rank.wait(200) for rank in group.ranks] == [2, 2]
        finally:
            group.kill()
        told = [rank.communicate()[1] for rank in group.ranks]
        assert all(f"error: another run (process {first.pid} on " in text for text in told), told
        assert "Traceback" not in "".join(told)
        assert main([*argv, "--preflight", "only"]) == 0  # writes nothing, and needs no lock
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    # The lock went with the process, and what it saved is whole.
    saved = max(json.loads((path / "trainer.json").read_text())["step"] for path in checkpoints.glob("step-*"))
    second = start(argv)
    try:
        while "going on after step" not in second.said():
            assert second.poll() is None, second.communicate()[1]
        assert f"going on after step {saved}" in second.said()
        second.send_signal(signal.SIGTERM)
        assert second.wait(100) == 128 + signal.SIGTERM
    finally:
        second.kill()
        second.communicate()
