"""What a server counts of itself."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceStats:
    """Counts since the start, and how things stand now."""

    requests: Mapping[tuple[str, str], int]
    """by endpoint and outcome: ok, an error's code, cancelled or internal"""
    seconds: Mapping[str, float]
    """sum over the requests of an endpoint, from arrival to answer"""
    inside: int
    """requests that were let in and are not answered"""
    queued: int
    """images that wait for the model"""
    running: int
    """images in the batch that the model works on"""
    batches: int
    batched: int
    """images in all batches"""

    @property
    def mean_batch(self) -> float:
        """Images a batch; 0 before the first."""
        return self.batched / self.batches if self.batches else 0.0


class RequestCounter:
    """Requests by endpoint and outcome; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, float] = {}

    def add(self, endpoint: str, outcome: str, seconds: float) -> None:
        """Count one request that was answered or refused after so many seconds."""
        with self._lock:
            self._requests[endpoint, outcome] += 1
            self._seconds[endpoint] = self._seconds.get(endpoint, 0.0) + seconds

    def counts(self) -> tuple[dict[tuple[str, str], int], dict[str, float]]:
        """Copies of both tables."""
        with self._lock:
            return dict(self._requests), dict(self._seconds)
