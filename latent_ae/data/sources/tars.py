"""Samples of webdataset tars: the files that share a name up to its first dot, and their image."""

import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import fsspec

from latent_ae.data.source import DataError

KEY, IMAGE = "__key__", "image"
"""columns: the name that the files of a sample share, and its image"""
_TEXTS = ("txt", "json")
"""columns of the files of these endings"""
_NUMBER = "cls"
"""column of the file of this ending, the number of a class"""
COLUMNS = {KEY, IMAGE, _NUMBER, *_TEXTS}
_LOOKED_AT = 5
_KEY_AND_FIELD = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")

File = tuple[str, str, bytes]
"""(key, field, content) of a file KEY.FIELD"""


def tar_dataset(
    files: Sequence[str], image_column: str | None, suffixes: tuple[str, ...], *, version: str | None = None
) -> Any:
    """A datasets.IterableDataset of the samples in tars, a shard each, or with a `version` a Dataset.

    Images have one of the `suffixes`; `image_column` is their ending, where samples have several. A Dataset is kept in
    the cache of `datasets` for files of one `version`. Raises DataError if the first samples have no image.
    """
    import datasets  # noqa: PLC0415 - takes seconds

    if not any(row[IMAGE] for row in islice(_rows(files, image_column, suffixes), _LOOKED_AT)):
        endings = sorted({f".{field}" for _, field, _ in islice(_files(files[0]), _LOOKED_AT)})
        there = f"files that end in {', '.join(endings)}" if endings else "no files"
        wanted = f" of data.image_column {image_column}" if image_column else ""
        raise DataError(f"{files[0]} begins with {there}, expected images{wanted}")
    texts = {name: datasets.Value("string") for name in (KEY, *_TEXTS)}
    features = datasets.Features({IMAGE: datasets.Image(), _NUMBER: datasets.Value("int64"), **texts})
    arguments = {"files": list(files), "image_column": image_column, "suffixes": suffixes}
    if version is None:
        return datasets.IterableDataset.from_generator(_rows, features=features, gen_kwargs=arguments)
    return datasets.Dataset.from_generator(_rows, features=features, gen_kwargs=arguments | {"version": version})


def _rows(
    files: Sequence[str], image_column: str | None, suffixes: tuple[str, ...], version: str = ""
) -> Iterator[dict[str, Any]]:
    del version  # part of the cache's key
    is_image = partial(_is_image, image_column=image_column, suffixes=suffixes)
    for file in files:
        sample: list[File] = []
        for entry in _files(file):
            if sample and sample[0][0] != entry[0]:
                yield from _samples(sample, is_image, file)
                sample = []
            sample.append(entry)
        if sample:
            yield from _samples(sample, is_image, file)


def _files(tar: str) -> Iterator[File]:
    """The visible files of a tar, in order."""
    with fsspec.open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            if member.isreg() and not member.name.rpartition("/")[2].startswith((".", "__")):
                if parts := _KEY_AND_FIELD.fullmatch(member.name):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield parts[1], parts[2].lower(), content.read()
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header


def _samples(files: list[File], is_image: Callable[[str], bool], tar: str) -> Iterator[dict[str, Any]]:
    """The sample that these files of one key are, or the samples, where the dots belong to the names of images."""
    key = files[0][0]
    images = [each for each in files if is_image(each[1])]
    if len(images) > 1 and all("." in field for _, field, _ in images):
        for name in dict.fromkeys(field.rpartition(".")[0] for _, field, _ in images):
            own = [each for each in files if each[1].rpartition(".")[0] == name]
            sample = [(f"{key}.{name}", field.rpartition(".")[2], data) for _, field, data in own]
            yield from _samples(sample, is_image, tar)
        return
    if len(images) > 1:
        fields = ", ".join(field for _, field, _ in images)
        raise DataError(f"{tar}: the sample {key} holds {len(images)} images ({fields}): name one as data.image_column")
    row: dict[str, Any] = {KEY: key, IMAGE: None, **dict.fromkeys((*_TEXTS, _NUMBER))}
    for _, field, data in images:
        row[IMAGE] = {"bytes": data, "path": f"{key}.{field}"}
    for _, field, data in files:
        if field in _TEXTS:
            row[field] = data.decode("utf-8", "replace")
        elif field == _NUMBER:
            row[field] = int(data)
    yield row


def _is_image(field: str, image_column: str | None, suffixes: tuple[str, ...]) -> bool:
    if image_column is None:
        return f".{field}".endswith(suffixes)
    return field == image_column and field not in (*_TEXTS, _NUMBER)
