"""The tensors in a file, whatever it is called: what decides is its content, not its suffix."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latent_ae.errors import one_line
from latent_ae.io.model_place import WEIGHT_SUFFIXES
from latent_ae.models.errors import ModelError
from latent_ae.models.pickled import type_name, unpickled

_HEAD = 512
"""bytes that tell what a file is"""
_ORIGINAL = "give the model that it was made from"
_FETCH = "fetch it again"
_FOREIGN: list[tuple[re.Pattern[bytes], str, str]] = [
    (re.compile(rb"\Z"), "is empty", _FETCH),
    (
        re.compile(rb"version https://git-lfs\."),
        "is a Git LFS pointer, which stands for a file that was not downloaded",
        "run `git lfs pull` in its repository, or download the file itself",
    ),
    (re.compile(rb"\s*<(!doctype html|html|head)\b", re.I), "is a web page", f"{_FETCH}, by the address of the file"),
    (re.compile(rb"\s*<\?xml"), "is an XML file", _ORIGINAL),
    (re.compile(rb"GGUF"), "is a GGUF file, whose tensors are quantised", "give the safetensors file it was made from"),
    (re.compile(rb"\x08.\x12.{0,2}(pytorch|onnx|tf2onnx|skl2onnx)", re.S), "is an ONNX model", _ORIGINAL),
    (re.compile(rb"\x93NUMPY"), "is a NumPy array", _ORIGINAL),
    (re.compile(rb"\x89HDF"), "is an HDF5 file", _ORIGINAL),
    (re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", re.S), "is an image", "give the file of a model"),
    (re.compile(rb"\x1f\x8b|7z\xbc\xaf|Rar!|.{257}ustar", re.S), "is an archive", "unpack it first"),
    (re.compile(rb"\s*[{\[]"), "is a JSON file", "give the folder or the safetensors file that it belongs to"),
]
"""(how it begins, what it is, what to do)"""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickle by their names, those in nested dicts with a dot between.

    They may be views of the file. Raises ModelError, which says what the file is, if it holds none.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    head = _head(path)
    if _begins_as_safetensors(head):
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is not a complete safetensors file ({one_line(error)}): fetch it again"
            ) from error
    if (reason := _foreign(path, head)) is not None:
        raise ModelError(f"{path} {reason}")
    content = unpickled(path)
    if not isinstance(content, dict):
        raise ModelError(
            f"{path} holds a {type_name(content)}, expected a dict of tensors: save its state_dict() instead"
        )
    return dict(_flat(content))


def refuse_foreign(path: Path) -> None:
    """Raise ModelError, which says what it is, for a file that is known not to hold tensors."""
    head = _head(path)
    if not _begins_as_safetensors(head) and (reason := _foreign(path, head)) is not None:
        raise ModelError(f"{path} {reason}")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def _begins_as_safetensors(head: bytes) -> bool:
    """The length of a header in 8 bytes, and the header's JSON."""
    return len(head) > 8 and head[8:9] == b"{"


def _foreign(path: Path, head: bytes) -> str | None:
    """What a file is that is neither safetensors nor a pickle, and what to do; None if it may be one."""
    for beginning, what, remedy in _FOREIGN:
        if beginning.match(head):
            return f"{what}: {remedy}"
    if head.startswith(b"PK"):
        return _archive(path)
    if path.suffix.lower() in WEIGHT_SUFFIXES or head.startswith(b"\x80"):
        return None
    return f"has an unsupported file type; supported: {', '.join(WEIGHT_SUFFIXES)}"


def _archive(path: Path) -> str | None:
    """What a zip is, if not by torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None  # cut off: the reader says so
    if any(name.endswith("constants.pkl") for name in names):
        return "is a TorchScript program: give the model that it was traced from"
    if any(name.endswith("/data.pkl") for name in names) or "data.pkl" in names:
        return None
    if any("archive_format" in name or "serialized_exported_program" in name for name in names):
        return f"is a program of torch.export (.pt2): {_ORIGINAL}"
    if names and all(name.endswith(".npy") for name in names):
        return f"is a NumPy archive (.npz): {_ORIGINAL}"
    return "is a zip archive: unpack it first"


def _flat(content: Mapping[object, object], prefix: str = "", depth: int = 0) -> list[tuple[str, Tensor]]:
    """Tensors in dicts within dicts; a pickle's may hold themselves, so not to any depth."""
    found: list[tuple[str, Tensor]] = []
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            found.append((prefix + key, value.detach()))
        elif isinstance(key, str) and isinstance(value, dict) and depth < 4:
            found += _flat(value, f"{prefix}{key}.", depth + 1)
    return found
