"""The index held against the shards' records, a shard at a time: all of a large one does not fit into memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from latent_ae.latent_dataset.again import spread

_ROWS_AT_ONCE = 1024


class IndexCheck:
    """Takes the rows of each record, in the order of the shards; `finish` says what is wrong."""

    def __init__(self, path: Path, *, samples: int) -> None:
        """So many of its rows, evenly spread, are kept."""
        self.rows = 0
        """that it has"""
        self.sampled: list[dict[str, Any]] = []
        self._name = path
        self._unreadable: str | None = None
        self._all_known = True
        self._recorded = self._differing = 0
        self._first_differing: int | None = None
        self._indexed = self._read(path, samples)

    def add(self, recorded: Iterable[dict[str, Any]] | None) -> None:
        """The rows of the next shard; None if they are not known."""
        if recorded is None:
            self._all_known = False
        for row in recorded or ():
            if next(self._indexed, row) != row:
                self._differing += 1
                self._first_differing = self._recorded if self._first_differing is None else self._first_differing
            self._recorded += 1

    def finish(self) -> str | None:
        """What is wrong, None if nothing. Without the rows of every shard it is not known which belong to which."""
        for _ in self._indexed:  # the rest, for what is to be kept of it
            pass
        if self._unreadable is not None:
            return f"{self._name} cannot be read: {self._unreadable}"
        if not self._all_known:
            return None
        if self._recorded != self.rows:
            return f"{self._name} has {self.rows} rows, the shards have {self._recorded}"
        if self._differing:
            return (
                f"{self._name}: {self._differing} rows are not what the shards' records say, first row "
                f"{self._first_differing}"
            )
        return None

    def _read(self, path: Path, samples: int) -> Iterator[dict[str, Any]]:
        """Its rows, one after the other."""
        try:
            with pq.ParquetFile(path) as file:
                self.rows = file.metadata.num_rows
                kept, number = set(spread(self.rows, samples)), 0
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                    for row in batch.to_pylist():
                        if number in kept:
                            self.sampled.append(row)
                        number += 1
                        yield row
        except (OSError, ValueError) as error:  # pyarrow's errors are either
            self._unreadable = " ".join(str(error).split())
