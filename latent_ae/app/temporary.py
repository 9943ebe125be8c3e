"""The app's temporary files: a private folder, from which old files are deleted."""

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from latent_ae.io.atomic import write_atomically


class _Written:
    """A sum to which any number of threads add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


_written = _Written()


def written() -> int:
    """Bytes that `put` has written since the program started."""
    return _written.bytes


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user can enter, deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="latent-ae-")).resolve()  # mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def files_under(folder: Path) -> frozenset[str]:
    """The paths of all files below a folder."""
    return frozenset(str(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)


class Swept(NamedTuple):
    """Paths of the files that a sweep removed, and bytes of those that are left."""

    removed: set[str]
    left: int


def sweep(
    folder: Path, *, seconds: float, most: int, spared_seconds: float, kept: frozenset[str] = frozenset()
) -> Swept:
    """Remove the files below `folder` that have not changed for `seconds`, and folders that have been empty as long.

    If more than `most` bytes are left, the oldest are removed too, except those that changed less than `spared_seconds`
    ago, which a request may still use. Those that are `kept` stay in any case.

    Gradio's own `delete_cache` ignores broken uploads, leaves the folders, and stops for good when a file appears while
    it counts them.
    """
    now = time.time()
    before = now - seconds
    removed: set[str] = set()
    others: list[tuple[float, str, int]] = []
    left = 0
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 - gradio knows its files by strings
            # The file may disappear meanwhile: a request moves its upload.
            with contextlib.suppress(FileNotFoundError):
                status = Path(path).lstat()
                if path not in kept and status.st_ctime < before:
                    Path(path).unlink()
                    removed.add(path)
                    continue
                left += status.st_size
                if path not in kept and status.st_ctime < now - spared_seconds:
                    others.append((status.st_ctime, path, status.st_size))
        for name in folders:
            inner = Path(parent, name)
            with contextlib.suppress(OSError):  # not empty, or gone
                if inner.stat().st_mtime < before:
                    inner.rmdir()
    for _, path, size in sorted(others):
        if left <= most:
            break
        Path(path).unlink(missing_ok=True)
        removed.add(path)
        left -= size
    return Swept(removed, left)


def put(folder: Path, name: str, data: bytes) -> Path:
    """Write a file to a new folder with an unguessable name.

    Gradio names its folders by content: the same result of two requests would be written while it is read.
    """
    path = folder / secrets.token_urlsafe(16) / Path(name).name
    path.parent.mkdir(mode=0o700)
    write_atomically(path, data, durable=False)  # deleted when the server ends
    _written.add(len(data))
    return path
