"""Checkpoints that are either whole or absent.

A checkpoint is placed as a whole; its manifest holds the sha256 of every file, and older checkpoints go only after the
new one was read back. Tensors are safetensors, the rest is JSON: nothing is pickled.

A checkpoint is known by what is in it. Folders and files of other names, links, and folders without a manifest are not
the run's: nothing here removes or changes them.
"""

import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.io.atomic import discard, placed
from latent_ae.io.checksum import file_sha256

MANIFEST = "manifest.json"
IMAGES = "images"
"""the entry of a training's values with the fingerprint of its images"""

_NAME = re.compile(r"step-([0-9]{8,})")
_WEIGHTS, _VALUES, _CONFIG = "weights.safetensors", "trainer.json", "config.yaml"
_Stamp = tuple[tuple[str, int, int], ...]
_verified: dict[Path, _Stamp] = {}
"""checkpoints that this process found whole, as their files were then: reading gigabytes again would take its time"""


class CheckpointError(UserError):
    """A checkpoint that cannot be written, found or trusted; the message is one line."""


class _DamageError(Exception):
    pass


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped. There is no random state: see `randomness`."""

    step: int
    """updates made"""
    tensors: dict[str, dict[str, Tensor]]
    """by file: weights, ema, optimizer"""
    values: dict[str, object]
    """JSON values: counters of EMA and gradient scaler, encoder identity, versions"""
    config_yaml: str


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int, again: bool = False) -> Path:
    """Write `folder`/step-NNNNNNNN, verify it, then prune. Returns its path.

    Kept are the newest `keep` that verify, and whatever is not the run's. A checkpoint of that step that verifies stays
    as it is, as a step has one state, unless more is known of it by now (`again`). Anything else of that name that is
    not the run's is renamed, not replaced.

    Raises CheckpointError if the disk is full or anything else prevents it; earlier checkpoints stay as they were.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    try:
        if os.path.lexists(final):
            if not again and _is_whole(final):
                return final
            if not _is_ours(final):
                final.rename(final.with_name(f"{final.name}.set-aside-{secrets.token_hex(4)}"))
        with placed([final], replace=True) as beside:
            _write_files(beside / final.name, checkpoint)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {final}: {error.strerror or error}; earlier checkpoints are untouched"
        ) from None
    if (damage := damage_of(final)) is not None:
        raise CheckpointError(f"the checkpoint just written to {final} does not read back: {damage}")
    _prune(folder, keep)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders with a checkpoint's name, oldest first, whole or not."""
    steps = {path: step for path in _entries(folder) if (step := step_of(path)) is not None and path.is_dir()}
    return sorted(steps, key=steps.__getitem__)


def step_of(path: Path) -> int | None:
    """The step that the name of a checkpoint says; None if it is not such a name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and path.name == f"step-{int(match[1]):08d}" else None


def damage_of(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None if every file is as it was written."""
    stamp = _stamp(path)
    try:
        _verify(path)
    except _DamageError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    _verified[path] = stamp
    return None


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a line for each newer one that does not."""
    passed_over: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        if (damage := damage_of(path)) is None:
            return path, passed_over
        passed_over.append(f"passing over the damaged checkpoint {path}: {damage}")
    return None, passed_over


def read_checkpoint(path: Path) -> Checkpoint:
    """A verified checkpoint. Raises CheckpointError if `path` is none or is damaged."""
    if not (path / MANIFEST).is_file():
        found = "does not exist" if not path.exists() else f"has no {MANIFEST}"
        raise CheckpointError(
            f"{path} is not a checkpoint: it {found}; give a folder like runs/NAME/checkpoints/step-00000500"
        )
    if (damage := damage_of(path)) is not None:
        raise CheckpointError(f"the checkpoint {path} is damaged: {damage}")
    values = json.loads((path / _VALUES).read_text(encoding="utf-8"))
    files = [path / name for name in _manifest(path) or () if name.endswith(".safetensors")]
    return Checkpoint(
        step=values["step"],
        tensors={file.stem: safetensors.torch.load_file(file) for file in sorted(files)},
        values=values,
        config_yaml=(path / _CONFIG).read_text(encoding="utf-8"),
    )


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    contents = {
        f"{name}.safetensors": safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
        for name, tensors in checkpoint.tensors.items()
    }
    contents[_VALUES] = json.dumps({"step": checkpoint.step, **checkpoint.values}, indent=1).encode()
    contents[_CONFIG] = checkpoint.config_yaml.encode()
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[MANIFEST] = json.dumps({"schema": 1, "sha256": sha256}, indent=1).encode()
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _prune(folder: Path, keep: int) -> None:
    """Remove the run's checkpoints that are older than the newest `keep` whole ones."""
    paths = list_checkpoints(folder)
    if len(paths) <= keep:
        return
    whole = 0
    for path in reversed(paths):
        if whole < keep:
            whole += _is_whole(path)
        elif _is_ours(path):
            discard(path)


def _is_whole(path: Path) -> bool:
    return _verified.get(path) == _stamp(path) or damage_of(path) is None


def _is_ours(path: Path) -> bool:
    """Whether it is a folder with a manifest and with no file that the manifest does not list."""
    expected = None if path.is_symlink() else _manifest(path)
    return expected is not None and all(
        file.name in (*expected, MANIFEST) or file.name.startswith(".")  # .DS_Store, .nfs...
        for file in _entries(path)
    )


def _verify(path: Path) -> None:
    """Raises _DamageError, OSError."""
    if (expected := _manifest(path)) is None:
        raise _DamageError(f"{MANIFEST} is missing or unreadable")
    if unlisted := [name for name in (_WEIGHTS, _VALUES, _CONFIG) if name not in expected]:
        raise _DamageError(f"{MANIFEST} does not list {unlisted[0]}")
    for name, sha256 in expected.items():
        if not (path / name).is_file():
            raise _DamageError(f"{name} is missing")
        if file_sha256(path / name) != sha256:
            raise _DamageError(f"{name} does not match its sha256")
    try:
        step = json.loads((path / _VALUES).read_text(encoding="utf-8"))["step"]
    except (ValueError, KeyError, TypeError):
        raise _DamageError(f"{_VALUES} says no step") from None
    if step_of(path) not in (None, step):
        raise _DamageError(f"it holds step {step}, not that of its name")


def _manifest(path: Path) -> dict[str, str] | None:
    """Sha256 by file of a checkpoint; None if there is no such list, or it has other entries than files beside it."""
    try:
        expected = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    beside = isinstance(expected, dict) and all(name not in ("", "..") and Path(name).name == name for name in expected)
    return expected if beside else None


def _stamp(path: Path) -> _Stamp:
    """Changes with any file."""
    return tuple((file.name, (stat := file.lstat()).st_size, stat.st_mtime_ns) for file in sorted(_entries(path)))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
