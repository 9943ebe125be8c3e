"""A folder has one writer, and who comes second is told who the first is."""

import errno
import fcntl
import socket
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from latent_ae.io.folder_lock import FolderInUseError, only_run

HOLDER = """
import sys
from pathlib import Path
from latent_ae.io.folder_lock import only_run
with only_run(Path(sys.argv[1]), instead="-"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError) as caught, only_run(folder, instead="another --name"):
            pass
        other.kill()
        other.communicate()
    assert str(caught.value) == (
        f"another run (process {other.pid} on {socket.gethostname()}) is writing to {folder}: "
        "wait until it ends, end it, or give another --name"
    )
    with only_run(folder, instead="another --name") as warning:
        assert warning is None


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with only_run(tmp_path, instead="another --name") as warning:
        assert warning == f"{tmp_path} is on a file system without locks: start no second run that writes to it"


def test_a_folder_that_nothing_was_written_to_goes_again(tmp_path: Path) -> None:
    empty, used = tmp_path / "empty", tmp_path / "used"
    for folder in (empty, used):
        with only_run(folder, instead="another --name"):
            assert folder.is_dir()
            if folder == used:
                (folder / "file").write_text("x")
    assert not empty.exists()
    assert {path.name for path in used.iterdir()} == {"file", ".lock"}


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.lockf, []

    def remove_first(file: TextIO, how: int) -> None:
        lock(file, how)
        if not removed:
            removed.append(tmp_path / ".lock")
            removed[0].unlink()

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    with only_run(tmp_path, instead="another --name"):
        assert (tmp_path / ".lock").read_text().startswith("process ")
