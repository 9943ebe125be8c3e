"""Checkpoints that are either whole or absent.

A checkpoint is placed as a whole; its manifest holds the sha256 of every file, and older checkpoints go only after the
new one was read back. Tensors are safetensors, the rest is JSON: nothing is
pickled.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from latent_ae.atomic import placed
from latent_ae.errors import UserError

MANIFEST = "manifest.json"


class CheckpointError(UserError):
    """A checkpoint that cannot be written, found or trusted; the message is one line."""


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


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `folder`/step-NNNNNNNN, verify it, then prune all but the newest `keep`. Returns its path.

    Raises CheckpointError if the disk is full or anything else prevents it; earlier checkpoints stay as they were.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    try:
        with placed([final], replace=True) as beside:
            _write_files(beside / final.name, checkpoint)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {final}: {error.strerror or error}; earlier checkpoints are untouched"
        ) from None
    if (damage := damage_of(final)) is not None:
        raise CheckpointError(f"the checkpoint just written to {final} does not read back: {damage}")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first, whole or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def damage_of(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None if every file is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        expected = dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, sha256 in expected.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != sha256:
            return f"{name} does not match its sha256"
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
    values = json.loads((path / "trainer.json").read_text(encoding="utf-8"))
    return Checkpoint(
        step=values["step"],
        tensors={file.stem: safetensors.torch.load_file(file) for file in sorted(path.glob("*.safetensors"))},
        values=values,
        config_yaml=(path / "config.yaml").read_text(encoding="utf-8"),
    )


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    contents = {
        f"{name}.safetensors": safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
        for name, tensors in checkpoint.tensors.items()
    }
    contents["trainer.json"] = json.dumps({"step": checkpoint.step, **checkpoint.values}, indent=1).encode()
    contents["config.yaml"] = checkpoint.config_yaml.encode()
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[MANIFEST] = json.dumps({"schema": 1, "sha256": sha256}, indent=1).encode()
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
