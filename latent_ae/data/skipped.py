"""The ledger of images that a run could not use."""

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
"""a share of a small data set is less than an image: so many may be bad, but no more than a tenth"""


class SkippedImages:
    """The distinct unusable images of a run, in a file of JSON lines {"id", "reason"}.

    Several processes may share the file: each appends whole lines, and takes in the others' whenever it looks. A
    resumed run goes on from the lines it finds.
    """

    def __init__(self, path: Path | None, total: int | None, max_share: float) -> None:
        """`total` is the number of training images, of which `max_share` may be unusable; None where nobody knows it,
        and the share is one of the images seen. Without a `path` the ledger stays in memory.
        """
        self._path = path
        self._total = total
        self._max_share = max_share
        self._reasons: dict[str, str] = {}
        self._known_bytes = 0
        """size of the file when it was last looked at"""
        self._read_bytes = 0
        """where the whole lines end that were read"""
        self._read()

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, bad: Sequence[Bad]) -> None:
        """Take note of the images that are not yet in the ledger."""
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
        """Forget the images that are gone or can be read now. For the process that has the file to itself."""
        if self._path is None or not self._reasons:
            return
        indices = {name: index for index in range(len(source)) if (name := source.sample_id(index)) in self._reasons}
        kept = {name: self._reasons[name] for name, index in indices.items() if _is_bad(source, index)}
        if kept != self._reasons:
            write_atomically(self._path, _lines(kept).encode())
            self._reasons, self._known_bytes, self._read_bytes = {}, 0, 0
            self._read()

    def ids(self) -> set[str]:
        """Of the images in the ledger."""
        self._read()
        return set(self._reasons)

    def error(self, seen: int = 0) -> str | None:
        """Why the run has to end, in one line; None while no more than the allowed share is unusable.

        `seen` is the number of images the run has trained on; of the first 1000 one share may be unusable at once.
        Processes may look at different moments: one of them has to ask and tell the others.
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
        """Take in what was appended since the last look, which every step asks for: mostly that is nothing."""
        if self._path is None or not self._path.exists() or self._path.stat().st_size == self._known_bytes:
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            content = file.read()
        self._known_bytes = self._read_bytes + len(content)
        self._read_bytes += content.rfind(b"\n") + 1  # the end of a line that another process is writing comes later
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                self._reasons.setdefault(entry["id"], entry["reason"])
            except (ValueError, KeyError, TypeError):
                continue  # a process was killed in mid-line; the image will be met again

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
