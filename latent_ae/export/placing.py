"""Outputs that are either whole, proven and in their place, or not there."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from latent_ae.errors import one_line
from latent_ae.export.errors import ExportError


@contextmanager
def placed(places: Sequence[Path]) -> Iterator[Path]:
    """A folder beside the places, in which each is made under its own name; all are renamed there at the end.

    Whatever ends the block otherwise, nothing is left. Raises ExportError for a place that is taken: a file, or a
    folder with something in it.
    """
    refuse_taken(places)
    parent = places[0].parent
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f".partial-{secrets.token_hex(8)}"
    partial.mkdir()
    done: list[Path] = []
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        for place in places:
            if place.is_dir():
                place.rmdir()
            (partial / place.name).rename(place)
            done.append(place)
    except BaseException:
        for place in done:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_taken(places: Sequence[Path]) -> None:
    """Raise ExportError if one is a file, or a folder with something in it."""
    for place in places:
        if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
            raise ExportError(f"{place} is there already: choose another name, or remove it")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Safetensors' own error for a full disk is no OSError; here it is."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, f"cannot write the weights ({one_line(error)})", str(path)) from error


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
