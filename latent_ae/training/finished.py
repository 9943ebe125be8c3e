"""Whether a run's result is there and whole."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open


def damage_of_result(folder: Path, *needed: str) -> str | None:
    """Why a folder is not a result as it was written, or None if it is.

    Weights are not read, but their headers are, which say how long the files are: a cut or empty file is noticed.

    Args:
        folder: that a run renamed to its place when all of it was written.
        needed: names of JSON files, which have to be objects with something in them.
    """
    for name in needed:
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except OSError as error:
            return f"{folder / name} cannot be read: {error.strerror}"
        except ValueError:
            content = None
        if not isinstance(content, dict) or not content:
            return f"{folder / name} is damaged"
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return f"{folder} holds no weights"
    for file in files:
        try:
            with safe_open(file, "pt") as weights:
                if not weights.keys():
                    return f"{file} is empty"
        except (OSError, SafetensorError):
            return f"{file} is damaged"
    return None
