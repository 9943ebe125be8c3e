"""Results of the examples, computed once and shown to everybody."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path

from latent_ae.app.tabs.job import Tick, Updates
from latent_ae.service.errors import ServiceError
from latent_ae.service.results import Baseline, Reconstruction
from latent_ae.service.service import Service

_POLL_SECONDS = 0.1
_SHOWN_SECONDS = 60.0
"""for which the files of shown results are used again: the server deletes files only when they are older than that"""


class ExampleResults:
    """Reconstructs as the service does, and the examples only once for all visitors."""

    def __init__(self, service: Service, examples: Sequence[Path]) -> None:
        """`examples` are image files."""
        self.paths = tuple(examples)
        self._service = service
        self._examples = {path.read_bytes() for path in examples}
        self._sizes = {len(data) for data in self._examples}
        self._made: dict[tuple[bytes, str], Reconstruction] = {}
        self._baselines: dict[int, tuple[Baseline, ...]] = {}
        self._shown: dict[tuple[str, tuple[int, ...]], tuple[float, Hashable, Updates]] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Reconstruct the first example by the first model, so that no visitor waits for it.

        What keeps it from being done, the first visitor is told.
        """
        with suppress(ServiceError):
            for path in self.paths[:1]:
                made = self.reconstruct(path, self._service.models()[0].id, lambda _: None)
                self.baselines(made, lambda _: None)

    def reconstruct(self, file: Path, model: str, tick: Tick, *, max_pixels: int | None = None) -> Reconstruction:
        """`Service.reconstruct`; of an example that is being reconstructed for another visitor, the same result.

        Examples are small: `max_pixels` does not concern them.
        """
        data = file.read_bytes() if file.is_file() and file.stat().st_size in self._sizes else b""
        if data not in self._examples:
            return self._service.reconstruct(file, model=model, max_pixels=max_pixels, tick=tick)
        if (made := self._made.get((data, model))) is not None:
            return made
        while not self._lock.acquire(timeout=_POLL_SECONDS):
            tick(0.0)
        try:
            if (data, model) not in self._made:
                self._made[data, model] = self._service.reconstruct(file, model=model, tick=tick)
            return self._made[data, model]
        finally:
            self._lock.release()

    def baselines(self, made: Reconstruction, tick: Tick) -> tuple[Baseline, ...]:
        """`Service.baselines`."""
        if not self._shared(made):
            return self._service.baselines(made, tick=tick)
        if id(made) not in self._baselines:
            self._baselines[id(made)] = self._service.baselines(made, tick=tick)
        return self._baselines[id(made)]

    def shown(
        self, what: str, made: Sequence[Reconstruction], settings: Hashable, show: Callable[[], Updates]
    ) -> Updates:
        """What `show` gives, whose files are those of another visitor where `made` are of an example."""
        if not all(map(self._shared, made)):
            return show()
        key = what, tuple(map(id, made))
        then, settings_then, updates = self._shown.get(key, (0.0, None, {}))
        if not updates or settings_then != settings or time.monotonic() - then > _SHOWN_SECONDS:
            updates = show()
            self._shown[key] = time.monotonic(), settings, updates
        # Gradio takes updates apart.
        return {each: dict(update) if isinstance(update, dict) else update for each, update in updates.items()}

    def _shared(self, made: Reconstruction) -> bool:
        return any(made is each for each in self._made.values())
