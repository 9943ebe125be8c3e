"""Splits of a data set by name: which is trained on, and which is held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from latent_ae.data.settings import FilesConfig
from latent_ae.data.source import DataError

T = TypeVar("T")

HELDOUT = ("validation", "test")
"""splits that are held out, the first that there is"""
HELDOUT_PREFIX = "heldout:"
"""begins the id of an image of data.heldout_path that is not below data.path"""
NO_SPLIT = "none"
"""split of the rows whose column says none"""
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_name(word: str) -> str:
    """The usual name of a split: `validation` for val, valid and dev; another word as it is."""
    return _WORDS.get(word.lower(), word)


def rows_by_split(values: Sequence[object]) -> dict[str, list[int]]:
    """Rows by what a column says of each; those without a value are in the split `none`."""
    splits: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        splits.setdefault(NO_SPLIT if value in (None, "") else split_name(str(value)), []).append(row)
    return splits


def only_split(splits: Mapping[str, T], what: str) -> T:
    """The only split that there is. Raises DataError."""
    if len(splits) != 1:
        raise DataError(f"{what} has the splits {', '.join(splits)}, expected one split: give the path of one")
    return next(iter(splits.values()))


class Choice(NamedTuple, Generic[T]):
    """What becomes of the splits of a data set."""

    train: T
    heldout: T | None
    """None where what lies elsewhere is held out, or a share of the training split"""
    unused: dict[str, T]


def choose(splits: Mapping[str, T], config: FilesConfig, what: str) -> Choice[T]:
    """The split to train on and the one to hold out, by the settings or by their names.

    Defaults are "train" (or the only split) and "validation" or else "test", also by their other names. `what` names
    the data in errors. Raises DataError for a name that does not exist.
    """
    names, wanted = list(splits), config.train_split
    train = _named(names, wanted or (names[0] if len(names) == 1 else "train"))
    if train is None:
        setting = f"data.train_split {wanted}" if wanted else "data.train_split (unset, so) train"
        raise DataError(f"{what}: {setting} is not among its splits: {', '.join(names)}")
    heldout = None
    if config.heldout_split is not None:
        heldout = _named(names, config.heldout_split)
        if heldout is None:
            listing = ", ".join(names)
            raise DataError(f"{what}: data.heldout_split {config.heldout_split} is not among its splits: {listing}")
        if heldout == train:
            raise DataError(f"{what}: the training split {train} is also data.heldout_split: name another or leave out")
    elif config.heldout_path is None:
        found = (_named(names, name) for name in HELDOUT)
        heldout = next((name for name in found if name not in (None, train)), None)
    unused = {name: split for name, split in splits.items() if name not in (train, heldout)}
    return Choice(splits[train], None if heldout is None else splits[heldout], unused)


def unused_split(name: str) -> str:
    """The reason why the images of a split are in no part."""
    return f"in the split {name}, which is not used (data.heldout_split {name} holds it out)"


OUTSIDE = "outside the folders of the splits"
"""the reason why an image beside the folders train, validation, ... is in no part"""


@dataclass(frozen=True)
class FolderSplits:
    """Images below folders that are named as splits."""

    splits: dict[str, list[str]]
    """names of images by split"""
    outside: list[str]
    """images that are in none of the folders"""
    folders: dict[str, list[str]]
    """names of the folders of each split"""
    depth: int | None
    """how many folders are above those of the splits; None without such folders, when all images are in one split"""


def folder_splits(names: Sequence[str]) -> FolderSplits:
    """The splits that the folders of some images say (`train/`, `val/`, ...), all at one depth.

    At the top there may be other folders beside train and a held-out one, deeper none, as a class may have the name.
    """
    paths = [name.split("/")[:-1] for name in names]
    for depth in range(max(map(len, paths), default=0)):
        words = [path[depth] if len(path) > depth and path[depth].lower() in _WORDS else None for path in paths]
        found = {split_name(word) for word in words if word}
        both, everywhere = "train" in found and len(found) > 1, None not in words
        if (both and (everywhere or depth == 0)) or (everywhere and depth == 0):
            splits: dict[str, list[str]] = {name: [] for name in ("train", *HELDOUT) if name in found}
            for name, word in zip(names, words, strict=True):
                if word:
                    splits[split_name(word)].append(name)
            outside = [name for name, word in zip(names, words, strict=True) if not word]
            used = sorted({word for word in words if word})
            folders = {split: [word for word in used if split_name(word) == split] for split in splits}
            return FolderSplits(splits, outside, folders, depth)
    return FolderSplits({"train": list(names)}, [], {"train": []}, None)


def _named(names: Sequence[str], wanted: str) -> str | None:
    """The split of that name, or else of another usual one for it."""
    if wanted in names:
        return wanted
    return next((name for name in names if split_name(name) == split_name(wanted)), None)
