"""Data sets that are read in order and never unpacked: tar shards, parquet and arrow files.

A data set is a list of shards, a shard a list of rows. `datasets` opens them, on the disk or at the hub.
"""

import hashlib
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from latent_ae.data.reading import PICTURES, Loaded, Reading, image_name
from latent_ae.data.source import DataError, SourceParts, file_size, hash_place
from latent_ae.data.sources.datasets_library import images_of_row, open_stored, stored_content
from latent_ae.data.sources.tars import KEY
from latent_ae.io.undecoded import UndecodedImage
from latent_ae.randomness import numpy_generator

_ROWS_AT_ONCE = 16
_READ_SIDE_BY_SIDE = 16
_HUB_PREFIX = re.compile(r"[a-z0-9]+://datasets/[^@]+@[^/]+/")
_TAR_MAGIC, _TAR_MAGIC_PLACE, _TAR_END_BYTES = b"ustar", 257, 1024


@dataclass(frozen=True)
class StoredImage:
    """An image as its shard holds it, undecoded."""

    sample_id: str
    content: dict[str, Any] | None
    """{"bytes", "path"} of datasets' image column; None if the row holds no image"""
    reading: Reading = PICTURES
    page: int | None = None

    def load(self) -> Loaded:
        """The decoded image. Raises BrokenImage."""
        return open_stored(self.content, self.sample_id, self.reading.load, self.page)

    def open(self) -> UndecodedImage | Loaded:
        """The same, not decoded yet where parts of it can be decoded alone. Raises BrokenImage."""
        return open_stored(self.content, self.sample_id, self.reading.open, self.page)


class Shards:
    """The rows of one split whose ids hash into one range.

    Ids are `FILE/KEY` for tar shards (the sample's file names without their endings), the path of an image file that
    is no part of an archive, and `FILE/ROW` for tables, the row as 8 digits; FILE is relative to the data set's
    folder. Image K of a row that has a list of them, or page K of its file, is `FILE/ROW#K`. Ids stay the same as long
    as the files keep their names and rows.
    """

    def __init__(
        self,
        dataset: Any,
        column: str,
        files: Sequence[str],
        *,
        root: str,
        split: str,
        what: str,
        prefix: str = "",
        reading: Reading = PICTURES,
    ) -> None:
        """`dataset` is a datasets.IterableDataset whose `column` has undecoded images, `files` are its shards' files
        below `root`, and `what` names the data in errors. Without `files`, shards are named by split and number.
        `prefix` begins the ids.
        """
        self.what = what
        self._dataset = dataset
        self._column = column
        self._root = root
        self._files = files
        names = [_below(file, root) for file in files] or [f"{split}/{i:05d}" for i in range(len(self))]
        self._names = [f"{prefix}{name}" for name in names]
        self._prefix, self._reading = prefix, reading
        self._places = (0.0, 1.0)
        self._rows: tuple[str, frozenset[Any]] | None = None

    def part(self, low: float, high: float) -> Self:
        """The rows whose `hash_place` is in [low, high)."""
        part = copy(self)
        part._places = (low, high)
        return part

    def only(self, column: str, values: Collection[Any]) -> Self:
        """The rows with one of these values in a column."""
        part = copy(self)
        part._rows = (column, frozenset(values))
        return part

    def __len__(self) -> int:
        """The number of shards."""
        return int(self._dataset.num_shards)

    @property
    def identity(self) -> str:
        """Changes when shards are added, removed or renamed."""
        return hashlib.sha256("\n".join(self._names).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def stored(self) -> Iterator[tuple[str, int]]:
        """(name, size of the file) of every shard; -1 for a truncated one, which may be downloaded again."""
        for shard, name in enumerate(self._names):
            try:
                self._check_end(shard)
                yield name, file_size(Path(self._files[shard])) if self._files else -1
            except DataError:
                yield name, -1

    def images(self, shard: int, first_row: int = 0) -> Iterator[tuple[int, StoredImage]]:
        """(place, image) of a shard in order, from place `first_row`: its row where each row has one image. Raises
        DataError if the shard is truncated or damaged.

        The images before are read but not decoded, as a tar has no index.
        """
        name, row, place = self._names[shard], 0, 0
        self._check_end(shard)
        try:
            # Not iter(dataset): in a loader's worker that would divide the rows a second time.
            for rows in self._dataset.shard(num_shards=len(self), index=shard).iter(batch_size=_ROWS_AT_ONCE):
                for index, content in enumerate(rows[self._column]):
                    name_of_row = self._sample_id(name, row, rows[KEY][index] if KEY in rows else None, content)
                    taken = self._places[0] <= hash_place(name_of_row) < self._places[1] and self._takes(rows, index)
                    for number, page in images_of_row(content, self._reading):
                        if taken and place >= first_row:
                            stored = content if number is None else content[number]
                            sample_id = image_name(image_name(name_of_row, number), page)
                            yield place, StoredImage(sample_id, stored, self._reading, page)
                        place += 1
                    row += 1
        except DataError:
            raise
        except Exception as error:  # a cut tar is a ReadError, a damaged table an ArrowInvalid, ...
            raise DataError(
                f"{self.what}: the shard {name} cannot be read beyond row {row}: {type(error).__name__}: "
                f"{' '.join(str(error).split())}: get it again or take it out"
            ) from error

    def _takes(self, rows: Mapping[str, Sequence[Any]], index: int) -> bool:
        return self._rows is None or rows[self._rows[0]][index] in self._rows[1]

    def _sample_id(self, name: str, row: int, key: str | None, content: Any) -> str:
        if key is not None:
            return f"{name}/{key}"
        if not self._files and isinstance(content, dict) and content["bytes"] is None and content["path"] is not None:
            return self._prefix + _below(content["path"], self._root)
        return f"{name}/{row:08d}"

    def _check_end(self, shard: int) -> None:
        """Raises DataError for a tar on the disk without its two final blocks of zeros: Python's reader accepts one
        that was truncated in a header or between two files.
        """
        if not self._files or not (file := Path(self._files[shard])).is_file():
            return
        with file.open("rb") as stream:
            head = stream.read(_TAR_MAGIC_PLACE + len(_TAR_MAGIC))
            if head[_TAR_MAGIC_PLACE:] != _TAR_MAGIC:
                return
            size = file.stat().st_size
            stream.seek(max(0, size - _TAR_END_BYTES))
            if any(stream.read()):
                raise DataError(
                    f"{self.what}: the shard {self._names[shard]} is cut short: its {size} bytes do not end as a tar "
                    "archive: get it again or take it out"
                )


class CollectedImages:
    """An ImageSource of up to `limit` images of `shards`, undecoded in memory, in the order of their ids.

    They are taken in turn from up to 16 shards, always the same ones, and read on first use.
    """

    def __init__(self, shards: Shards, limit: int) -> None:
        self._shards = shards
        self._limit = limit

    def __len__(self) -> int:
        """Raises DataError if there are no images."""
        return len(self._images)

    def sample_id(self, index: int) -> str:
        """Id as in the shards."""
        return self._images[index].sample_id

    def load(self, index: int) -> Loaded:
        """Raises BrokenImage."""
        return self._images[index].load()

    def open(self, index: int) -> UndecodedImage | Loaded:
        """What `load` gives, not decoded yet where parts of it can be decoded alone. Raises BrokenImage."""
        return self._images[index].open()

    def stored(self) -> Iterator[tuple[str, int]]:
        """(name, size) of the shards."""
        return self._shards.stored()

    def stored_bytes(self, index: int) -> bytes:
        """The image file. Raises BrokenImage, OSError."""
        return stored_content(self._images[index].content, self.sample_id(index))

    @cached_property
    def _images(self) -> list[StoredImage]:
        waiting = deque(numpy_generator(0, "collected", len(self._shards)).permutation(len(self._shards)).tolist())
        reading = deque(self._shards.images(waiting.popleft()) for _ in range(min(_READ_SIDE_BY_SIDE, len(waiting))))
        images: list[StoredImage] = []
        while reading and len(images) < self._limit:
            rows = reading.popleft()
            if (found := next(rows, None)) is not None:
                images.append(found[1])
                reading.append(rows)
            elif waiting:
                reading.append(self._shards.images(waiting.popleft()))
        if not images:
            raise DataError(f"{self._shards.what} holds no image for this part: change data.heldout_share")
        return sorted(images, key=lambda image: image.sample_id)


@dataclass(frozen=True)
class StreamParts(SourceParts):
    """A source whose training images come as a stream; `train` and `heldout` are samples of the parts, to measure."""

    stream: Shards
    streams: int
    """parts of it that are read side by side"""
    shuffle_block: int
    """images of each that are shuffled in memory"""

    def account(self) -> str:
        """What is known without reading it all."""
        return "; ".join((f"{len(self.stream):,} shards", *self.remarks))

    def for_training(self) -> Self:
        """Itself: a stream has a first image, and to count those that are held out would be to read them."""
        return self


def _below(file: str, root: str) -> str:
    """A file's path relative to the data set's folder, with forward slashes, on the disk or at the hub."""
    inner, _, archive = file.partition("::")
    if archive:  # zip://a/b.png::/data/c.zip
        return f"{_below(archive, root)}/{inner.split('://')[-1]}"
    if "://" in file:
        return _HUB_PREFIX.sub("", file.removeprefix(f"{root}/"))
    resolved = Path(file).resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else resolved.name
