"""The one writer: whole or not there, on the disk, with the usual mode, and errors that name the file."""

import errno
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch

from latent_ae.io.atomic import (
    PlaceTakenError,
    append,
    placed,
    remove_partials,
    write_atomically,
    write_errors,
    write_report,
)

LARGE = 1 << 17


@contextmanager
def no_room(limit: int = 1 << 16) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond a limit: a write fails half way, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_file_gets_the_usual_mode_whatever_its_library_chose(umask: int, tmp_path: Path) -> None:
    with placed([tmp_path / "out"]) as beside:
        (beside / "out" / "deep").mkdir(parents=True)
        safetensors.torch.save_file({"a": torch.ones(1)}, beside / "out" / "deep" / "weights.safetensors")
        (beside / "out" / "closed").mkdir(mode=0o700)
    write_atomically(tmp_path / "file", b"x")
    files = [tmp_path / "out" / "deep" / "weights.safetensors", tmp_path / "file"]
    folders = [tmp_path / "out", tmp_path / "out" / "deep", tmp_path / "out" / "closed"]
    assert {mode(file) for file in files} == {0o666 & ~umask}
    assert {mode(folder) for folder in folders} == {0o777 & ~umask}


def test_everything_is_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename, replace = os.fsync, Path.rename, Path.replace

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        parts = path.relative_to(tmp_path).parts
        done.append("sync " + "/".join("." if part.startswith(".partial-") else part for part in parts))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", lambda self, to: (done.append("rename"), rename(self, to))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("rename"), replace(self, to))[1])
    with placed([tmp_path / "new" / "out"]) as beside:
        (beside / "out" / "deep").mkdir(parents=True)
        (beside / "out" / "deep" / "file").write_text("x")
    assert done == [
        "sync ",  # `new` is in it
        "sync new/./out/deep/file",
        "sync new/./out/deep",
        "sync new/./out",
        "sync new/.",
        "rename",
        "sync new",
    ]
    done.clear()
    write_atomically(tmp_path / "file", b"x")
    assert done == ["sync .", "rename", "sync "]
    done.clear()
    write_atomically(tmp_path / "file", b"y", durable=False)
    assert done == ["rename"]
    assert (tmp_path / "file").read_bytes() == b"y"


def test_a_place_is_replaced_only_if_the_caller_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be replaced in any case
    for number, replace in enumerate((False, True)):
        with placed([out], replace=replace) as beside:
            (beside / "out").mkdir()
            (beside / "out" / str(number)).write_text("x")
        assert [path.name for path in out.iterdir()] == [str(number)]
    with pytest.raises(PlaceTakenError, match=r"out already exists: choose another name, or remove it"), placed([out]):
        raise AssertionError("the block is not entered")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "1"]


def test_a_place_taken_while_the_block_runs_is_left_alone(tmp_path: Path) -> None:
    def write() -> None:
        with placed([tmp_path / "side", tmp_path / "file"]) as beside:
            (beside / "side").mkdir()
            (beside / "file").write_text("ours")
            (tmp_path / "file").write_text("theirs")

    with pytest.raises(PlaceTakenError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "theirs"


@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_between_the_renames_undoes_those_before(tmp_path: Path, replace: bool) -> None:
    names = ("a", "b")
    if replace:
        for name in names:
            (tmp_path / name).write_text("old")
    with pytest.raises(FileNotFoundError), placed([tmp_path / name for name in names], replace=replace) as beside:
        (beside / "a").write_text("new")  # and no b
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({"a": "old", "b": "old"} if replace else {})


def write_weights(out: Path) -> None:
    out.mkdir()
    safetensors.torch.save_file({"a": torch.zeros(LARGE)}, out / "weights.safetensors")


def write_bytes(out: Path) -> None:
    out.mkdir()
    (out / "weights.safetensors").write_bytes(bytes(LARGE))


@pytest.mark.parametrize("write", [write_weights, write_bytes])
def test_a_full_disk_is_an_os_error_that_names_the_file_and_leaves_what_was(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    with pytest.raises(OSError) as caught, no_room(), placed([tmp_path / "out"], replace=True) as beside:  # noqa: PT011
        write(beside / "out")
    assert caught.value.errno == errno.EFBIG
    assert caught.value.strerror == os.strerror(errno.EFBIG)
    assert str(caught.value.filename).startswith(str(tmp_path / "out"))
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_a_file_that_does_not_fit_is_what_it_was_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    with pytest.raises(OSError, match="File too large") as caught, no_room():
        write_atomically(file, bytes(LARGE))
    assert caught.value.filename == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (
            safetensors.SafetensorError("I/O error: No space left on device (os error 28)"),
            errno.ENOSPC,
            "No space left",
        ),
        (safetensors.SafetensorError("something\nelse"), errno.EIO, "cannot write the weights (something else)"),
        (OSError("encoder error -2 when writing image file"), errno.EIO, "encoder error -2"),
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC, "No space left"),
    ],
)
def test_errors_of_libraries_get_one_form(raised: Exception, code: int, text: str, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, write_errors(tmp_path / "x"):  # noqa: PT011
        raise raised
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "x"))
    assert text in str(caught.value.strerror)


def test_only_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    killed = [".partial-0123456789abcdef", ".partial-00000000000000ff"]
    (tmp_path / killed[0]).mkdir()
    (tmp_path / killed[0] / "file").write_text("x")
    (tmp_path / killed[1]).write_text("x")
    others = [".partial-mine", "x.partial-0123456789abcdef", ".partial-0123456789abcdef.backup", "partial"]
    for name in others:
        (tmp_path / name).write_text("x")
    remove_partials(tmp_path)
    remove_partials(tmp_path / "nowhere")
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_a_report_replaces_a_file_and_is_written_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    write_report(file, "one")
    inode = file.stat().st_ino
    write_report(file, "two")
    assert file.read_text() == "two"
    assert file.stat().st_ino != inode
    link.symlink_to(file)
    write_report(link, "three")
    assert link.is_symlink()
    assert file.read_text() == "three"
    with pytest.raises(FileNotFoundError) as caught:
        write_report(tmp_path / "none" / "file", "x")
    assert caught.value.filename == str(tmp_path / "none" / "file")


def test_a_report_goes_into_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    write_report(Path(f"/dev/fd/{writing}"), "text")
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == "text"


def test_a_log_grows_line_by_line_and_has_the_usual_mode(umask: int, tmp_path: Path) -> None:
    for line in ("a\n", "b\n"):
        append(tmp_path / "log", line)
    assert (tmp_path / "log").read_text() == "a\nb\n"
    assert mode(tmp_path / "log") == 0o666 & ~umask
    with pytest.raises(IsADirectoryError) as caught:
        append(tmp_path, "x")
    assert caught.value.filename == str(tmp_path)
