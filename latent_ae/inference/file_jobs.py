"""Thousands of files, one batch after another. What is done to them is a task's (`latent_ae.inference.file_tasks`).

    files --not made yet?--> read --batches of bounded size--> made --> written, each whole or not at all

A file that cannot be used is left out and named at the end. What was made is kept by a later run if it is whole and
was made of the same bytes by the same model in the same way, so that an interrupted run goes on where it was.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import BinaryIO, Generic, Protocol, TypeVar

from latent_ae.errors import UserError
from latent_ae.inference.batching import Tick
from latent_ae.inference.memory import ran_out
from latent_ae.io.image import BrokenImage
from latent_ae.io.paths import Source, output_names, stem_of

BATCH_PIXELS = 1 << 21
BATCH_COUNT = 64
"""of the images that are encoded or decoded together; one image may be larger"""
_RAN_OUT = "the memory ran out over it"
WRITERS = 4
"""threads: compressing a PNG takes longer than a GPU takes for its pixels"""

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Target:
    """A file and what is to be made of it."""

    source: Path
    outputs: tuple[Path, ...]
    """one, or for a latent file one for each of its images"""
    page: int | None = None
    """of an image file, from 0; None for its first"""


@dataclass(frozen=True)
class Tiled:
    """That images of a file were coded in tiles, an approximation."""

    seam_db: float | None = None
    """the lowest agreement of decoded tiles where they overlap, as PSNR; None where nothing was decoded"""


@dataclass
class Outcome:
    """What became of files."""

    made: int = 0
    kept: int = 0
    """were there, whole, from an earlier run"""
    failed: list[tuple[Path, str]] = field(default_factory=list)
    """each with the reason, a line"""
    tiled: list[Tiled] = field(default_factory=list)
    """of the files that were made, those with images in tiles"""
    notes: defaultdict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """what a person should know about files that were made, each with the files it is about"""


@dataclass(frozen=True)
class Item(Generic[Given]):
    """A file that was read."""

    target: Target
    digest: str
    """sha256 of its bytes in hex"""
    given: Given


class Watch(Protocol):
    """What is told of a run as it goes on."""

    def say(self, file: Path, sentence: str) -> None:
        """What a person should know of a file before work on it begins, to follow on its name."""

    def begin(self, file: Path) -> None:
        """Work on a large image begins."""

    def advance(self, share: float) -> None:
        """A strip or a tile of it is done; so much of the image is."""

    def done(self) -> None:
        """A file is done with, whatever became of it."""


def plan(
    sources: Sequence[Source], out: Path, suffix: str, *, count: Callable[[Path], int] = lambda _: 1
) -> list[Target]:
    """Where below `out` what is made of each source goes; `count` is how many outputs a source has.

    Raises UserError if an output would overwrite a source.
    """
    counts = [count(source.path) for source in sources]
    places = [place for source, many in zip(sources, counts, strict=True) for place in _places(source.place, many)]
    outputs = [out / name for name in output_names(places, suffix)]
    own = {source.path.resolve() for source in sources}
    if overwritten := [output for output in outputs if output.resolve() in own]:
        raise UserError(f"{overwritten[0]} is one of the files to read and would be overwritten: give another --out")
    targets, rest = [], iter(outputs)
    for source, many in zip(sources, counts, strict=True):
        targets.append(Target(source.path, tuple(next(rest) for _ in range(many))))
    return targets


def each_page(targets: Sequence[Target]) -> list[Target]:
    """Targets of several outputs as one target for each, of the page with that number."""
    return [
        Target(target.source, (output,), page if len(target.outputs) > 1 else None)
        for target in targets
        for page, output in enumerate(target.outputs)
    ]


def _places(place: PurePath, many: int) -> list[PurePath]:
    if many == 1:
        return [place]
    stem = stem_of(place)
    return [place.with_name(f"{stem}-{number:04d}{place.name[len(stem) :]}") for number in range(1, many + 1)]


class Task(ABC, Generic[Given, Made]):
    """What is done to every file."""

    @abstractmethod
    def is_made(self, target: Target, digest: str) -> bool:
        """Whether every output is there, whole, and what this task would make of a file with this sha256."""

    @abstractmethod
    def read(self, file: BinaryIO, page: int | None) -> Given:
        """`page` is the target's. Raises UserError for a file that cannot be used."""

    def notes(self, given: Given) -> Sequence[str]:  # noqa: ARG002 - most tasks assume nothing
        """What was assumed, changed or left out of a file, for the user to check, each to follow on its name."""
        return ()

    def forecast(self, given: Given) -> Sequence[str]:  # noqa: ARG002 - most tasks foresee nothing
        """What to say of a file before work on it begins, each to follow on its name."""
        return ()

    def smaller(self, given: Given) -> str:  # noqa: ARG002
        """What would fit in place of a file over which the memory ran out."""
        return "take a smaller image"

    @abstractmethod
    def pixels(self, given: Given) -> int:
        """Of its images."""

    @abstractmethod
    def make(self, items: Sequence[Item[Given]], tick: Tick | None) -> list[Made]:
        """One result an item. `tick` is called with the share that is done. Raises UserError."""

    @abstractmethod
    def write(self, item: Item[Given], made: Made) -> Tiled | None:
        """By one of several threads if there are several items; None where images went through whole.

        Raises UserError if it cannot be written, OSError.
        """


def run(task: Task[Given, Made], targets: Sequence[Target], watch: Watch) -> Outcome:
    """Do a task to every file.

    Memory holds one batch at a time. Raises OSError if something cannot be written: the next file would fare no better.
    """
    outcome = Outcome()
    with ThreadPoolExecutor(WRITERS) as writers:
        for batch in _batches(_read(task, targets, outcome, watch), task.pixels):
            for item in batch:
                for sentence in task.forecast(item.given):
                    watch.say(item.target.source, sentence)
            large = len(batch) == 1 and task.pixels(batch[0].given) > BATCH_PIXELS
            if large:
                watch.begin(batch[0].target.source)
            pairs = list(_made(task, batch, outcome, watch.advance if large else None))
            # What is alone may be made while it is written, and a codec is not to be used by two threads.
            written = (map if len(batch) == 1 else writers.map)(partial(_write, task), pairs)
            for (item, _), result in zip(pairs, written, strict=True):
                if not isinstance(result, str):
                    outcome.made += 1
                    outcome.tiled += [result] if result else []
                    for note in task.notes(item.given):
                        outcome.notes[note].append(item.target.source)
                else:
                    _fail(task, item, result, outcome)
            for _ in batch:
                watch.done()
    return outcome


def _read(task: Task[Given, Made], targets: Sequence[Target], outcome: Outcome, watch: Watch) -> Iterator[Item[Given]]:
    digest_of = lru_cache(maxsize=1)(_digest)  # all pages of a file come one after another
    for target in targets:
        try:
            item = _read_one(task, target, digest_of)
        except BrokenImage as error:
            outcome.failed.append((target.source, error.reason))
        except OSError as error:
            outcome.failed.append((target.source, error.strerror or str(error)))
        except Exception as error:
            outcome.failed.append((target.source, _reason(error)))
        else:
            if item is not None:
                yield item
                continue
            outcome.kept += 1
        watch.done()


def _read_one(task: Task[Given, Made], target: Target, digest_of: Callable[[Path], str]) -> Item[Given] | None:
    """None if there is nothing to do."""
    if target.source.exists() and not target.source.is_file():  # a pipe would be waited for
        raise UserError("it is no ordinary file")
    digest = digest_of(target.source)
    if task.is_made(target, digest):
        return None
    with target.source.open("rb") as file:
        return Item(target, digest, task.read(file, target.page))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _batches(items: Iterator[Item[Given]], pixels: Callable[[Given], int]) -> Iterator[list[Item[Given]]]:
    batch: list[Item[Given]] = []
    held = 0
    for item in items:
        size = pixels(item.given)
        if batch and (held + size > BATCH_PIXELS or len(batch) == BATCH_COUNT):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += size
    if batch:
        yield batch


def _write(task: Task[Given, Made], pair: tuple[Item[Given], Made]) -> Tiled | str | None:
    """What `Task.write` gives, or the reason why it could not be written."""
    try:
        return task.write(*pair)
    except Exception as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    """Why one file could not be used, in a line. Raises what is no fault of the file."""
    if isinstance(error, UserError):
        return str(error)
    if ran_out(error):
        return _RAN_OUT
    raise error


def _fail(task: Task[Given, Made], item: Item[Given], reason: str, outcome: Outcome) -> None:
    """Note that nothing became of a file. What would fit is asked for here, as the error held what it had taken."""
    more = f": {task.smaller(item.given)}" if reason == _RAN_OUT else ""
    outcome.failed.append((item.target.source, reason + more))


def _made(
    task: Task[Given, Made], batch: Sequence[Item[Given]], outcome: Outcome, tick: Tick | None
) -> Iterator[tuple[Item[Given], Made]]:
    """What becomes of a batch; where that fails, of each of it alone, as one file must not take others with it."""
    try:
        yield from zip(batch, task.make(batch, tick), strict=True)
        return
    except Exception as error:
        reason = _reason(error)
    # Outside of the handler: the error would hold what the batch took of the memory that is short.
    if len(batch) == 1:
        _fail(task, batch[0], reason, outcome)
        return
    for item in batch:
        yield from _made(task, [item], outcome, None)
