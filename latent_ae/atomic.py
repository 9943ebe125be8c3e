"""Files that are either whole or not there."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place, make sure that it is on the disk, and rename it there.

    Whatever interrupts it, `path` is what it was before or holds all of `data`, and nothing else is left behind.
    Raises OSError.
    """
    partial = path.with_name(f".partial-{secrets.token_hex(8)}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
