"""JSON files that carry a checksum of themselves, so that damage shows whenever they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latent_ae.latent_dataset.errors import LatentDatasetError

KEY = "checksum"


def checksum(tree: Mapping[str, Any]) -> str:
    """Sha256 in hex over a tree of JSON, whatever the order of its keys and the space between them."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def with_checksum(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with its checksum as a further entry."""
    return {**tree, KEY: checksum(tree)}


def read_checked(path: Path, *, without: str = "") -> tuple[dict[str, Any], bool]:
    """The tree of a file, and whether it has a checksum: files of earlier versions have none.

    The checksum covers everything but the entry `without`.

    Raises LatentDatasetError if the file is not there, is no JSON object, or does not match its checksum.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise LatentDatasetError(f"{path} cannot be read: {reason}") from None
    if not isinstance(tree, dict):
        raise LatentDatasetError(f"{path} is damaged: expected a JSON object, got {type(tree).__name__}")
    given = tree.pop(KEY, None)
    if given is not None and given != checksum({key: value for key, value in tree.items() if key != without}):
        raise LatentDatasetError(f"{path} does not match its checksum: it was damaged or changed")
    return tree, given is not None
