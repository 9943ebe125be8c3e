"""Tables of images: metadata.csv, metadata.jsonl or metadata.parquet beside them, or a table of their paths."""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

from latent_ae.data.source import DataError, LeftOut
from latent_ae.io.paths import count_by_suffix

PATH_COLUMNS = ("file_name", "path", "file", "filename", "image")
"""columns of a table that have the paths of images, in the order in which they are looked for"""
CAPTION_COLUMNS = ("caption", "text")
LABEL_COLUMN = "label"
SPLIT_COLUMN = "split"

Row = dict[str, Any]


def read_table(name: str, content: bytes) -> list[Row]:
    """The rows of a table by the ending of its name. Raises DataError for one that cannot be read."""
    suffix = posixpath.splitext(name)[1].lower()
    try:
        return TABLES[suffix](content)
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # pyarrow's are ValueErrors
        reason = " ".join(str(error).split())
        raise DataError(f"{name} cannot be read as a table ({suffix}): {type(error).__name__}: {reason}") from error


def is_metadata(name: str) -> bool:
    """Whether a file says something of the images beside it, as `datasets` has it."""
    return posixpath.basename(name) in ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def no_images(files: Iterable[PurePath]) -> LeftOut:
    """Files that are no images, by their endings."""
    names = list(files)
    return LeftOut({f"not read as images: {count_by_suffix(names)}": len(names)} if names else {})


def as_numbers(values: Sequence[Any]) -> list[int | None] | None:
    """Values as whole numbers, "" and None as None; None if one of them is none. Those of a CSV file are texts."""
    try:
        return [None if value in (None, "") else int(str(value)) for value in values]
    except ValueError:
        return None


def by_name(values: Sequence[Any]) -> tuple[list[int | None], tuple[str, ...]]:
    """The place of each value among the sorted names of all, "" and None as None, and the names."""
    names = tuple(sorted({str(value) for value in values if value not in (None, "")}))
    places = {name: place for place, name in enumerate(names)}
    return [None if value in (None, "") else places[str(value)] for value in values], names


def _csv(content: bytes) -> list[Row]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))


def _json_lines(content: bytes) -> list[Row]:
    return [dict(json.loads(line)) for line in content.decode("utf-8-sig").splitlines() if line.strip()]


def _parquet(content: bytes) -> list[Row]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - takes long, and few folders have one

    return list(pq.read_table(io.BytesIO(content)).to_pylist())


TABLES: dict[str, Callable[[bytes], list[Row]]] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
"""readers of a table by the ending of its name"""
