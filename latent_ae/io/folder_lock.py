"""A folder that one run at a time writes to, on one machine or on several that share it."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from latent_ae.errors import UserError
from latent_ae.io.atomic import write_errors

LOCK = ".lock"
"""the file in the folder that is locked; it stays, and says who locked it last"""


class FolderInUseError(UserError):
    """Another run is writing to the folder; the message is one line."""


@contextmanager
def only_run(folder: Path, *, instead: str) -> Iterator[str | None]:
    """Make the folder and hold it to the end of the block, or of the process however it ends. If nothing was written
    to it, it is removed again, with the parents that were made for it.

    Gives None, or a warning for the user where the file system has no locks and nothing keeps another run out.

    Locks are shared by all machines that mount the folder, by NFS too. They are a process's: only one process of a run
    may hold the folder, and it must not open the file LOCK otherwise, as that ends the lock.

    Args:
        folder: that is written to.
        instead: what the user can give so that the run writes elsewhere, e.g. "another --name".

    Raises FolderInUseError if another run holds it, OSError if it cannot be made or written to.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    with _opened(folder) as file:
        try:
            # A record lock: unlike flock's it is not inherited by loader processes, which may outlive a killed run.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows both
            file.seek(0)
            holder = " ".join(file.read(200).split())
            raise FolderInUseError(
                f"another run{f' ({holder})' if holder else ''} is writing to {folder}: wait until it ends, end it, or "
                f"give {instead}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            yield f"{folder} is on a file system without locks: start no second run that writes to it"
            return
        if not _is_at(folder / LOCK, file):  # the run that held it has just ended and removed it
            with only_run(folder, instead=instead) as warning:
                yield warning
            return
        with write_errors(folder / LOCK):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        try:
            yield None
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                with suppress(OSError):  # another run has begun to use it
                    for unused in (folder, *made):
                        unused.rmdir()


def _opened(folder: Path) -> TextIO:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / LOCK).open("a+", encoding="utf-8")


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
