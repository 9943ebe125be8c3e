"""Results that a visitor may need again without running the model, bounded in bytes and in age."""

import secrets
import threading
import time

from latent_ae.service.results import Reconstruction


class ResultCache:
    """Reconstructions by an unguessable key; the oldest are dropped first.

    Gradio keeps a visitor's state for an hour after the page is closed, so a state holds only a key.
    """

    def __init__(self, *, max_bytes: int = 512 << 20, seconds: float = 1800.0) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._kept: dict[str, tuple[float, Reconstruction]] = {}
        self._lock = threading.Lock()

    def put(self, reconstruction: Reconstruction) -> str:
        """Keep a reconstruction, however large, and return its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[key] = (time.monotonic(), reconstruction)
            self._expire()
            while len(self._kept) > 1 and sum(_bytes(each) for _, each in self._kept.values()) > self._max_bytes:
                del self._kept[next(iter(self._kept))]
        return key

    def get(self, key: str | None) -> Reconstruction | None:
        """The reconstruction, None if it was dropped."""
        with self._lock:
            self._expire()
            return self._kept[key][1] if key in self._kept else None

    def drop(self, key: str | None) -> None:
        """Forget a reconstruction, if it is there."""
        with self._lock:
            self._kept.pop(key or "", None)

    def _expire(self) -> None:
        oldest = time.monotonic() - self._seconds
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= oldest}


def _bytes(reconstruction: Reconstruction) -> int:
    # twice the file: the tensors are in memory too
    return reconstruction.original.nbytes + reconstruction.reconstructed.nbytes + 2 * len(reconstruction.encoded.file)
