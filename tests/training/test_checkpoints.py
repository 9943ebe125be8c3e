import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latent_ae.training.checkpoints import (
    Checkpoint,
    CheckpointError,
    damage_of,
    list_checkpoints,
    newest_whole,
    read_checkpoint,
    write_checkpoint,
)


def make(step: int, size: int = 4) -> Checkpoint:
    return Checkpoint(
        step=step,
        tensors={
            "weights": {"a": torch.full((size,), float(step))},
            "optimizer": {"a|step": torch.tensor(float(step))},
        },
        values={"ema_updates": step},
        config_yaml="name: x\n",
    )


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, make(3), keep=2)
    assert path.name == "step-00000003"
    read = read_checkpoint(path)
    assert (read.step, read.config_yaml, read.values["ema_updates"]) == (3, "name: x\n", 3)
    assert torch.equal(read.tensors["weights"]["a"], torch.full((4,), 3.0))
    assert read.tensors["optimizer"]["a|step"].shape == ()


def test_the_manifest_holds_the_sha256_of_every_file(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, make(1), keep=2)
    manifest = json.loads((path / "manifest.json").read_text())["sha256"]
    assert set(manifest) == {file.name for file in path.iterdir()} - {"manifest.json"}
    for name, sha256 in manifest.items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == sha256


def test_channels_last_tensors_are_saved_by_value(tmp_path: Path) -> None:
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    path = write_checkpoint(tmp_path, Checkpoint(1, {"weights": {"a": tensor}}, {}, ""), keep=2)
    assert torch.equal(read_checkpoint(path).tensors["weights"]["a"], tensor)


def test_older_ones_are_pruned_and_the_newest_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000010"]


def test_nothing_is_pruned_unless_the_new_one_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, make(step), keep=2)
    monkeypatch.setattr("latent_ae.training.checkpoints.damage_of", lambda path: "bit rot")
    with pytest.raises(CheckpointError, match="does not read back: bit rot"):
        write_checkpoint(tmp_path, make(3), keep=2)
    monkeypatch.undo()
    assert newest_whole(tmp_path)[0] is not None
    assert (tmp_path / "step-00000001").exists()


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "no manifest", "mangled manifest"])
@pytest.mark.parametrize("name", ["weights.safetensors", "trainer.json", "config.yaml"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, harm: str, name: str) -> None:
    good = write_checkpoint(tmp_path, make(1), keep=2)
    bad = write_checkpoint(tmp_path, make(2), keep=2)
    file, manifest = bad / name, bad / "manifest.json"
    match harm:
        case "flip":
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        case "truncate":
            os.truncate(file, file.stat().st_size - 1)
        case "remove":
            file.unlink()
        case "no manifest":
            manifest.unlink()
        case "mangled manifest":
            manifest.write_text("{")
    path, notes = newest_whole(tmp_path)
    assert path == good
    assert len(notes) == 1
    assert str(bad) in notes[0]
    with pytest.raises(CheckpointError, match=r"damaged|not a checkpoint"):
        read_checkpoint(bad)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint: it has no manifest"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is not a checkpoint: it does not exist"):
        read_checkpoint(tmp_path / "nowhere")


def test_an_unfinished_write_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(1), keep=2)
    (tmp_path / ".partial-step-00000002").mkdir()
    (tmp_path / ".partial-step-00000002" / "weights.safetensors").write_bytes(b"half")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001"]
    write_checkpoint(tmp_path, make(2), keep=2)
    assert damage_of(tmp_path / "step-00000002") is None


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    # The kernel refuses to let a file grow beyond a limit: a write fails half way, as it does on a full disk.
    write_checkpoint(tmp_path, make(1), keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
        with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*step-00000002: File too large"):
            write_checkpoint(tmp_path, make(2, size=100_000), keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    path, notes = newest_whole(tmp_path)
    assert path == tmp_path / "step-00000001"
    assert not notes
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


KILLED_EVERYWHERE = """
import os, sys
from pathlib import Path
import latent_ae.training.checkpoints as checkpoints
from tests.training.test_checkpoints import make

def killed_at(folder, fault):
    count = 0
    def point():
        nonlocal count
        count += 1
        if count == fault:
            os.kill(os.getpid(), 9)
    system = (os, ("fsync", "open"))
    for module, names in (system, (Path, ("rename", "mkdir", "open")), (checkpoints.shutil, ("rmtree",))):
        for name in names:
            original = getattr(module, name)
            setattr(module, name, lambda *a, _original=original, **k: (point(), _original(*a, **k))[1])
    checkpoints.write_checkpoint(folder, make(3), keep=2)
    os._exit(count)

def write(folder, fault):
    for step in (1, 2):
        checkpoints.write_checkpoint(folder, make(step), keep=2)
    if not (child := os.fork()):
        killed_at(folder, fault)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

points = write(Path(sys.argv[1]) / "whole", 0)
print(*[write(Path(sys.argv[1]) / str(fault), fault) for fault in range(1, points + 1)])
"""


@pytest.mark.slow  # a process for each place where it can be killed
def test_killed_at_any_point_of_a_write_there_is_a_whole_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", KILLED_EVERYWHERE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    ends = run.stdout.split()
    assert len(ends) > 12, run.stderr
    assert set(ends) == {"-9"}
    assert newest_whole(tmp_path / "whole")[0] == tmp_path / "whole" / "step-00000003"
    for fault in range(1, len(ends) + 1):
        folder = tmp_path / str(fault)
        path, notes = newest_whole(folder)
        assert path is not None
        assert not notes
        assert path.name in ("step-00000002", "step-00000003")
        write_checkpoint(folder, make(3), keep=2)
        assert newest_whole(folder)[0] == folder / "step-00000003"
