"""Results that a visitor may come back to without running the model again, bounded in bytes and in age."""

import secrets
import threading
import time
from collections import OrderedDict

from latent_ae.service.results import Reconstruction


class Shelf:
    """Reconstructions by an unguessable key; the oldest leave first.

    Gradio keeps a visitor's state for an hour after the page is closed, so what a state holds here is only a key.
    """

    def __init__(self, *, max_bytes: int = 512 << 20, seconds: float = 1800.0) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._kept: OrderedDict[str, tuple[float, Reconstruction]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, reconstruction: Reconstruction) -> str:
        """Keep a reconstruction, however large, and return its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[key] = (time.monotonic(), reconstruction)
            self._expire()
            while len(self._kept) > 1 and sum(_bytes(each) for _, each in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)
        return key

    def get(self, key: str | None) -> Reconstruction | None:
        """What was put there, None if it has left."""
        with self._lock:
            self._expire()
            return self._kept[key][1] if key is not None and key in self._kept else None

    def drop(self, key: str | None) -> None:
        """Forget what was put there."""
        with self._lock:
            self._kept.pop(key or "", None)

    def _expire(self) -> None:
        oldest = time.monotonic() - self._seconds
        for key in [key for key, (since, _) in self._kept.items() if since < oldest]:
            del self._kept[key]


def _bytes(reconstruction: Reconstruction) -> int:
    # the file stands for the tensors in it too
    return reconstruction.original.nbytes + reconstruction.reconstructed.nbytes + 2 * len(reconstruction.encoded.file)
