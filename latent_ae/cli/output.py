"""What commands print, and the reports that they write."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from latent_ae.io.atomic import write_report


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
