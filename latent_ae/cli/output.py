"""What commands print, and the reports that they write."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from latent_ae.io.atomic import write_report

_IMAGE_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(f"{text}\n")


def remark(text: str) -> None:
    """Print a line about how the result is made, on stderr."""
    sys.stderr.write(f"{text}\n")


def complain(text: str) -> None:
    """Print an error on stderr, as one line."""
    sys.stderr.write(f"error: {' '.join(text.split())}\n")


def write_json(file: Path | None, report: object) -> None:
    """Write the report of --json; None: it was not asked for. Raises OSError."""
    if file is not None:
        text = report if isinstance(report, str) else json.dumps(report, indent=2) + "\n"
        write_report(file, text)


@contextmanager
def progress(unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar if stderr is a terminal; each call moves it by one and gives the total."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None) as bar:

        def advance(total: int) -> None:
            bar.total = total
            bar.update()

        yield advance


class FileBars:
    """A `file_jobs.Watch` that shows a bar of files, and below it one of the strips of a large image.

    A context manager. There are bars only if stderr is a terminal.
    """

    def __init__(self, files: int) -> None:
        self._total = files
        self._image: Any = None
        self._name, self._strips = "", 0

    def __enter__(self) -> Self:
        from tqdm import tqdm

        self._files = tqdm(total=self._total, unit="file", disable=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._close_image()
        self._files.close()

    def say(self, file: Path, sentence: str) -> None:
        """Print a line above the bars."""
        self._files.write(f"{file} {sentence}", file=sys.stderr)

    def begin(self, file: Path) -> None:
        """Show the bar of an image."""
        from tqdm import tqdm

        self._close_image()
        self._name, self._strips = file.name, 0
        options: dict[str, Any] = {"leave": False, "disable": None, "miniters": 0}  # strips are of unequal work
        self._image = tqdm(total=1.0, desc=self._name, bar_format=_IMAGE_BAR, **options)

    def advance(self, share: float) -> None:
        """Move it by a strip."""
        self._strips += 1
        self._image.set_description_str(f"{self._name}, {self._strips} strips", refresh=False)
        self._image.update(min(share, 1.0) - self._image.n)

    def done(self) -> None:
        """Move the bar of files."""
        self._close_image()
        self._files.update()

    def _close_image(self) -> None:
        if self._image is not None:
            self._image.close()
            self._image = None
