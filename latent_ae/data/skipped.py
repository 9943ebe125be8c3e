"""The list of images that a run could not use."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from latent_ae.data.source import ImageSource
from latent_ae.io.atomic import append, write_atomically
from latent_ae.io.image import BrokenImage

Bad = tuple[str, str]
"""(id of a sample, why it could not be used)"""

_SHOWN_IDS = 5
_FEWEST_SEEN = 1000
ALWAYS_ALLOWED = 3
"""of a small data set, where a share is less than an image, this many images may be bad, but at most a tenth"""


class SkippedImages:
    """The distinct unusable images of a run, in a file of JSON lines {"id", "reason"}.

    Several processes may share the file: each appends whole lines and reads those of the others. A resumed run reads
    the existing lines.
    """

    def __init__(self, path: Path | None, total: int | None, max_share: float) -> None:
        """`total` is the number of training images, of which the share `max_share` may be unusable; None if unknown,
        then it is a share of the images seen. Without a `path` the list stays in memory.
        """
        self._path = path
        self._total = total
        self._max_share = max_share
        self._reasons: dict[str, str] = {}
        self._known_bytes = 0
        """size of the file when it was last read"""
        self._read_bytes = 0
        """end of the last whole line that was read"""
        self._read()

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, bad: Sequence[Bad]) -> None:
        """Add those images that are not yet in the list."""
        if not any(sample_id not in self._reasons for sample_id, _ in bad):
            return
        self._read()
        new = {sample_id: reason for sample_id, reason in bad if sample_id not in self._reasons}
        self._reasons |= new
        if self._path is None or not new:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append(self._path, ("" if self._ends_with_line() else "\n") + _lines(new))

    def drop_mended(self, source: ImageSource) -> None:
        """Remove images that no longer exist or can be read now. No other process may use the file meanwhile."""
        if self._path is None or not self._reasons:
            return
        indices = {name: index for index in range(len(source)) if (name := source.sample_id(index)) in self._reasons}
        kept = {name: self._reasons[name] for name, index in indices.items() if _is_bad(source, index)}
        if kept != self._reasons:
            write_atomically(self._path, _lines(kept).encode())
            self._reasons, self._known_bytes, self._read_bytes = {}, 0, 0
            self._read()

    def ids(self) -> set[str]:
        """Of the images in the list."""
        self._read()
        return set(self._reasons)

    def error(self, seen: int = 0) -> str | None:
        """Why the run has to end, in one line; None while at most the allowed share is unusable.

        `seen` is the number of images trained on, which stands for an unknown `total`, 1000 at least. Processes may
        read the file at different times: one of them has to call this and tell the others.
        """
        self._read()
        total = max(seen, _FEWEST_SEEN) if self._total is None else self._total
        if len(self) <= max(self._max_share * total, min(ALWAYS_ALLOWED, total // 10) if self._max_share else 0):
            return None
        where = f"; all are listed in {self._path}" if self._path else ""
        first = ", ".join(f"{name} ({reason})" for name, reason in list(self._reasons.items())[:_SHOWN_IDS])
        return (
            f"{len(self)} of {total} training images ({len(self) / total:.2%}) cannot be used, more than "
            f"data.max_bad_share {self._max_share:g} allows: repair or remove them, or raise it{where}; first: {first}"
        )

    def _read(self) -> None:
        """Read the lines appended since the last call; called at every step, it mostly finds none."""
        if self._path is None or not self._path.exists() or self._path.stat().st_size == self._known_bytes:
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            content = file.read()
        self._known_bytes = self._read_bytes + len(content)
        self._read_bytes += content.rfind(b"\n") + 1  # another process may be writing the rest of a line
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                self._reasons.setdefault(entry["id"], entry["reason"])
            except (ValueError, KeyError, TypeError):
                continue  # a process was killed in mid-line; the image will be found again

    def _ends_with_line(self) -> bool:
        assert self._path is not None
        if not self._path.exists():
            return True
        with self._path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _lines(reasons: Mapping[str, str]) -> str:
    return "".join(json.dumps({"id": name, "reason": reason}) + "\n" for name, reason in reasons.items())


def _is_bad(source: ImageSource, index: int) -> bool:
    try:
        source.load(index)
    except BrokenImage:
        return True
    return False
