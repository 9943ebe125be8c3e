"""The checksum of a file. Needs no torch."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Sha256 of a file's content in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
