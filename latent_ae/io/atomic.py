"""The one writer: files and folders that are complete and in their place, or not there.

Files are written beside their place, synced to the disk, and renamed. A process that is killed leaves what was there
before, and at most a hidden `.partial-*` beside it. `tests/io/test_one_writer.py` names the few writers that differ.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from latent_ae.errors import UserError, one_line

_PARTIAL = re.compile(r"\.partial-[0-9a-f]{16}")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""how Rust's standard library, which safetensors writes with, ends its messages"""


class PlaceTakenError(UserError):
    """Something is already where a new file or folder is to be written; the message is one line."""


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file whose folder exists, in place of an earlier one. Its mode is 0o666 without the umask's bits.

    Whatever interrupts it, `path` is what it was before or holds all of `data`; with `durable`, which waits for the
    disk, even after a power cut. Raises OSError, which names `path`.
    """
    partial = _beside(path)
    try:
        with write_errors(path, partial):
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            partial.replace(path)
            if durable:
                _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_report(path: Path, text: str) -> None:
    """Write a file that the user named: a regular file atomically; a link, a pipe or a device (`/dev/stdout`) directly.

    Raises OSError, which names `path`.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with write_errors(path):
            path.write_text(text, encoding="utf-8")
    else:
        write_atomically(path, text.encode())


def append(path: Path, text: str) -> None:
    """Append to a log in one write, so that lines of several processes do not mix. Raises OSError, which names `path`.

    A log is not synced: a power cut may cost its last lines.
    """
    with write_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


@contextmanager
def placed(places: Sequence[Path], *, replace: bool = False) -> Iterator[Path]:
    """A new folder in which each of the places is made under its own name; at the end all are renamed to the places.

    Before that every file and folder is synced, and gets the mode that a new one gets: 0o666 or 0o777 without the
    umask's bits, whatever the library that wrote it chose. If the block raises, the places are as they were.

    Args:
        places: files or folders that are made together, all in one folder, which is made if need be.
        replace: whether a place that is taken is replaced; otherwise only an empty folder is.

    Raises PlaceTakenError for a place that is taken; OSError, which names a file in its place, for any failed write.
    """
    if not replace:
        refuse_taken(places)
    parent = places[0].parent
    partial, done = _beside(places[0]), list[Path]()
    try:
        with write_errors(places[-1], partial):
            _make_folder(parent)
            partial.mkdir()
            yield partial
            _finish(partial)
            if not replace:
                refuse_taken(places)  # again: the block may have taken hours
            for place in places:
                if os.path.lexists(place):
                    place.rename(partial / f".old-{place.name}")
                (partial / place.name).rename(place)
                done.append(place)
            _sync_folder(parent)
    except BaseException:
        for place in done:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        for old in partial.glob(".old-*"):
            old.rename(parent / old.name.removeprefix(".old-"))
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_taken(places: Sequence[Path]) -> None:
    """Raise PlaceTakenError if one is a file, or a folder with something in it."""
    for place in places:
        if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
            raise PlaceTakenError(f"{place} already exists: choose another name, or remove it")


def discard(path: Path) -> None:
    """Remove a folder. A kill leaves all of it, or what `remove_partials` removes. Raises OSError."""
    partial = _beside(path)
    path.rename(partial)
    shutil.rmtree(partial)


def remove_partials(folder: Path) -> None:
    """Remove what killed writers left in a folder. Only for the process that has the folder to itself."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _PARTIAL.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def write_errors(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Give every error of a library that writes the form that programs print: an OSError that names a file.

    Args:
        path: named where the error names no file.
        partial: a file or folder beside the place; a file in it is named by the path it would have got.
    """
    try:
        yield
    except SafetensorError as error:  # of a full disk, for one
        number = _OS_ERROR.search(str(error))
        code = int(number[1]) if number else errno.EIO
        text = os.strerror(code) if number else f"cannot write the weights ({one_line(error)})"
        raise OSError(code, text, str(path)) from error
    except OSError as error:
        place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        if partial is not None and place.is_relative_to(partial):
            inside = place.relative_to(partial)
            place = partial.parent / inside if inside.parts else path
        if error.errno is None:
            raise OSError(errno.EIO, one_line(error), str(place)) from error
        error.filename, error.filename2 = str(place), None
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".partial-{secrets.token_hex(8)}")


def _make_folder(folder: Path) -> None:
    """`mkdir` with parents that survives a power cut as well."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _finish(partial: Path) -> None:
    """Set the modes and sync, the inner folders before the outer."""
    usual = stat.S_IMODE(partial.stat().st_mode)  # 0o777 without the umask, which cannot be asked for without changing
    for folder, _, names in os.walk(partial, topdown=False):
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                _set_mode(file, usual & 0o666)
                _sync(file)
        _set_mode(Path(folder), usual)
        _sync_folder(Path(folder))


def _set_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with suppress(PermissionError):  # a file system without modes
            path.chmod(mode)


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
