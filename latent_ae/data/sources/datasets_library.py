"""The columns and rows of a data set of the `datasets` library, for the sources `hub` and `stream`."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from latent_ae.data.reading import File, Reading
from latent_ae.data.source import DataError
from latent_ae.data.sources.files import opened
from latent_ae.errors import BrokenImage

T = TypeVar("T")


def open_stored(
    stored: dict[str, Any] | None, sample_id: str, read: Callable[[File, int | None], T], page: int | None = None
) -> T:
    """What `read` makes of the image in a row's undecoded image column and its page: `load` or `open` of a `Reading`.

    Raises BrokenImage, also for a row without an image.
    """
    try:
        return read(stored_file(stored, sample_id), page)
    except BrokenImage as error:
        raise BrokenImage(error.reason, sample_id) from error


def has_lists(dataset: Any, column: str) -> bool:
    """Whether a column of `image_column` has a list of images in each row."""
    feature = dataset.features[column]
    return _in_list(feature) is not feature


def images_of_row(content: Any, reading: Reading) -> list[tuple[int | None, int | None]]:
    """(place in the list, page) of each image of a row: those of one image are (None, None)."""
    if not isinstance(content, list) and reading.pages != "all":
        return [(None, None)]
    found: list[tuple[int | None, int | None]] = []
    for place, each in enumerate(content if isinstance(content, list) else [content]):
        try:
            pages = reading.pages_of(stored_file(each, ""))
        except BrokenImage:
            pages = [None]
        found += [(place if isinstance(content, list) else None, page) for page in pages]
    return found


def stored_content(stored: dict[str, Any] | None, sample_id: str) -> bytes:
    """The image file in a row's undecoded image column. Raises BrokenImage, OSError."""
    file = stored_file(stored, sample_id)
    return file.read_bytes() if isinstance(file, Path) else file.getvalue()


def image_column(dataset: Any, wanted: str | None, what: str, keep: Sequence[str | None] = ()) -> tuple[Any, str]:
    """The data set with only its image column, of undecoded images, and the column's name.

    A row may have one image or a list of them. `wanted` may also be a column with the bytes of image files. The columns
    `keep` are kept where they exist. Raises DataError if `wanted` holds no images or, if it is None, unless exactly one
    column does; the message lists the columns.
    """
    import datasets  # noqa: PLC0415

    # The features of a streamed text format (csv, json) are only known once it has been read.
    features = dataset.features or dict.fromkeys(next(iter(dataset), {}))
    listing = ", ".join(f"{name} ({type_name(feature)})" for name, feature in features.items())
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    found = found or [name for name, feature in features.items() if _holds_images(feature)]
    of_bytes = [name for name, feature in features.items() if _holds_bytes(_in_list(feature))]
    if wanted is not None and wanted not in (*found, *of_bytes):
        problem = "is no column" if wanted not in features else "does not hold images"
        raise DataError(f"{what}: data.image_column {wanted} {problem}; its columns are {listing}")
    if wanted is None and len(found) != 1:
        choice = found or of_bytes  # bytes may be anything: they are images only if the user names them
        advice = f": name one as data.image_column ({', '.join(choice)})" if choice else ""
        raise DataError(f"{what}: {len(found) or 'no'} columns hold images{advice}; its columns are {listing}")
    column = wanted or found[0]
    kept = [column, *(name for name in keep if name in features and name != column)]
    # Undecoded, so that open_image decodes them and a broken image concerns its row alone.
    undecoded: Any = datasets.Image(decode=False)
    undecoded = undecoded if _in_list(features[column]) is features[column] else datasets.List(undecoded)
    return dataset.with_format(None).select_columns(kept).cast_column(column, undecoded), column


def stored_file(stored: dict[str, Any] | None, sample_id: str) -> Path | io.BytesIO:
    """The image file of a row's undecoded image column. Raises BrokenImage."""
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        raise BrokenImage("the row holds no image", sample_id)
    if stored["bytes"] is not None:
        return io.BytesIO(stored["bytes"])
    try:
        return opened(stored["path"])  # at the hub or in an archive
    except BrokenImage as error:
        raise BrokenImage(error.reason, sample_id) from error


def _holds_bytes(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _holds_images(feature: Any) -> bool:
    """Whether a column has images as `datasets` or other writers (a struct of bytes and path) store them, or lists."""
    import datasets  # noqa: PLC0415

    inner = _in_list(feature)
    if isinstance(inner, dict):
        return "bytes" in inner and inner.keys() <= {"bytes", "path"} and _holds_bytes(inner["bytes"])
    return isinstance(inner, datasets.Image)


def _in_list(feature: Any) -> Any:
    """The type of the values in a column of lists; that of another column itself."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)


def class_names(feature: Any, values: Sequence[Any]) -> list[Any]:
    """The values of a column, those of a column of classes by their names."""
    names = getattr(feature, "names", None)
    return [names[value] if names and value is not None else value for value in values]


def type_name(feature: Any) -> str:
    """The type of a column, for people."""
    if feature is None:
        return "of unknown type"
    kind = type(feature).__name__
    return f"{kind} {feature.dtype}" if kind == "Value" else kind
