"""Results that a visitor may need again without running the model, bounded in bytes and in age."""

import secrets
import threading
import time
from typing import NamedTuple

from latent_ae.service.results import Reconstruction


class Result(NamedTuple):
    """What a visitor has been shown."""

    made: tuple[Reconstruction, ...]
    """by each model, the page's first"""
    files: tuple[str, ...]
    """paths of the pictures of the original and of each reconstruction"""


class ResultCache:
    """Results by an unguessable key; the oldest are dropped first.

    Gradio keeps a visitor's state for an hour after the page is closed, so a state holds only a key.
    """

    def __init__(self, *, max_bytes: int = 512 << 20, seconds: float = 1800.0) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._kept: dict[str, tuple[float, Result]] = {}
        self._lock = threading.Lock()

    def put(self, result: Result) -> str:
        """Keep a result, however large, and return its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[key] = (time.monotonic(), result)
            self._expire()
            while len(self._kept) > 1 and self._bytes() > self._max_bytes:
                del self._kept[next(iter(self._kept))]
        return key

    def get(self, key: str | None) -> Result | None:
        """The result, None if it was dropped."""
        with self._lock:
            self._expire()
            return self._kept[key][1] if key in self._kept else None

    def drop(self, key: str | None) -> None:
        """Forget a result, if it is there."""
        with self._lock:
            self._kept.pop(key or "", None)

    def _expire(self) -> None:
        oldest = time.monotonic() - self._seconds
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= oldest}

    def _bytes(self) -> int:
        # Those of examples are many visitors'.
        kept = {id(each): each for _, result in self._kept.values() for each in result.made}
        return sum(map(_bytes, kept.values()))


def _bytes(reconstruction: Reconstruction) -> int:
    # twice the file: the tensors are in memory too
    return reconstruction.original.nbytes + reconstruction.reconstructed.nbytes + 2 * len(reconstruction.encoded.file)
