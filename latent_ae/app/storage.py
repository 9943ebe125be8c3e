"""The app's temporary files: in a private folder, bounded in age and in size."""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from latent_ae.io.atomic import write_atomically
from latent_ae.service.errors import Busy

_SWEEP_SECONDS = 30.0
_FULL_SECONDS = 1.0
"""Between sweeps while the space is full, and between checks whether it is."""

_log = logging.getLogger(__name__)


class _Written:
    """A sum to which any number of threads add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


_written = _Written()
"""By `put`, since the program started."""


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


def put(folder: Path, name: str, data: bytes) -> Path:
    """Write a file to a new folder with an unguessable name.

    Gradio names its folders by content: the same result of two requests would be written while it is read.
    """
    path = folder / secrets.token_urlsafe(16) / Path(name).name
    path.parent.mkdir(mode=0o700)
    write_atomically(path, data, durable=False)  # deleted when the server ends
    _written.add(len(data))
    return path


class Storage:
    """Bounds the files below a folder. On the server's event loop only.

    Gradio's own `delete_cache` ignores broken uploads, leaves the folders, and stops for good when a file appears while
    it counts them.
    """

    def __init__(self, folder: Path, *, max_bytes: int, keep_seconds: float, spared_seconds: float) -> None:
        """Files that have not changed for `keep_seconds` are deleted, except those that exist now, the page's own.

        If more than `max_bytes` are left, the oldest are deleted too, except those that changed less than
        `spared_seconds` ago, which a request may still use.
        """
        self.folder = folder
        self.received = 0
        """Bytes of uploads and of tools' requests since the start, which are or will be written below the folder."""
        self._max_bytes, self._keep_seconds, self._spared_seconds = max_bytes, keep_seconds, spared_seconds
        self._kept = files_under(folder)
        self._left, self._before = 0, self._arrived

    @property
    def stored(self) -> int:
        """Bytes of the files after the last sweep, and of those written since."""
        return self._left + self._arrived - self._before

    def require_room(self) -> None:
        """Raise Busy if the space is full."""
        if self.stored > self._max_bytes:
            raise Busy("the server's space for uploads and results is full: try again later")

    async def sweep_for_ever(self, forget: Callable[[set[str]], None]) -> None:
        """Sweep every few seconds, and hand `forget` the paths of what was deleted."""
        while True:
            end = time.monotonic() + min(_SWEEP_SECONDS, self._keep_seconds)
            await asyncio.sleep(_FULL_SECONDS)
            while self.stored <= self._max_bytes and time.monotonic() < end:
                await asyncio.sleep(_FULL_SECONDS)
            try:
                forget(await self.sweep())
            except OSError:
                _log.exception("cannot remove temporary files")

    async def sweep(self) -> set[str]:
        """Delete old files, and folders that have been empty as long. Returns the paths of the files."""
        before = self._arrived
        removed, self._left = await asyncio.to_thread(self._delete)
        self._before = before
        return removed

    @property
    def _arrived(self) -> int:
        return self.received + _written.bytes

    def _delete(self) -> tuple[set[str], int]:
        """The paths of the deleted files, and the bytes of those that are left."""
        now = time.time()
        before = now - self._keep_seconds
        removed: set[str] = set()
        others: list[tuple[float, str, int]] = []
        left = 0
        for parent, folders, names in os.walk(self.folder, topdown=False):
            for name in names:
                path = os.path.join(parent, name)  # noqa: PTH118 - gradio knows its files by strings
                # The file may disappear meanwhile: a request moves its upload.
                with contextlib.suppress(FileNotFoundError):
                    status = Path(path).lstat()
                    if path not in self._kept and status.st_ctime < before:
                        Path(path).unlink()
                        removed.add(path)
                        continue
                    left += status.st_size
                    if path not in self._kept and status.st_ctime < now - self._spared_seconds:
                        others.append((status.st_ctime, path, status.st_size))
            for name in folders:
                inner = Path(parent, name)
                with contextlib.suppress(OSError):  # not empty, or gone
                    if inner.stat().st_mtime < before:
                        inner.rmdir()
        for _, path, size in sorted(others):
            if left <= self._max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            removed.add(path)
            left -= size
        return removed, left
