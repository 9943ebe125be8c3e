import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latent_ae.training.checkpoint import files as checkpoints
from latent_ae.training.checkpoint.files import (
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
    monkeypatch.setattr("latent_ae.training.checkpoint.files.damage_of", lambda path: "bit rot")
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


def whole_copy(folder: Path, name: str) -> None:
    shutil.copytree(folder / "step-00000001", folder / name)


STRANGE = {
    "a copy with a longer name": lambda folder: whole_copy(folder, "step-00000012-backup"),
    "a copy with a word": lambda folder: whole_copy(folder, "step-final"),
    "a copy with fewer digits": lambda folder: whole_copy(folder, "step-12"),
    "a copy with more digits": lambda folder: whole_copy(folder, "step-000000012"),
    "a copy with other digits": lambda folder: whole_copy(folder, "step-0000001\N{ARABIC-INDIC DIGIT TWO}"),
    "a copy under a later name": lambda folder: whole_copy(folder, "step-00000099"),
    "a file": lambda folder: (folder / "step-00000012").write_text("mine"),
    "a folder of something else": lambda folder: (folder / "step-00000012" / "mine").mkdir(parents=True),
    "an empty folder": lambda folder: (folder / "step-00000012").mkdir(),
    "a link that leads nowhere": lambda folder: (folder / "step-00000012").symlink_to(folder / "nowhere"),
    "a link to a file": lambda folder: (folder / "step-00000012").symlink_to(
        folder / "step-00000001" / "manifest.json"
    ),
    "a link to another folder": lambda folder: (folder / "step-00000012").symlink_to(folder.parent),
    "a cut write of an earlier version": lambda folder: (folder / ".partial-step-00000012").mkdir(),
}
"""entries of checkpoints/ that are no checkpoints of the run, by what they are"""


def everything(folder: Path) -> dict[str, object]:
    """What is below a folder: links by where they lead, files by content."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_not_the_runs_is_neither_counted_nor_touched(kind: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(1), keep=2)
    before = everything(tmp_path)
    STRANGE[kind](tmp_path)
    strange = {name: content for name, content in everything(tmp_path).items() if name not in before}
    assert strange
    for step in (2, 3, 4):
        assert newest_whole(tmp_path)[0] == tmp_path / f"step-{step - 1:08d}"
        write_checkpoint(tmp_path, make(step), keep=2)
    left = everything(tmp_path)
    assert {name: left[name] for name in strange} == strange
    assert {"step-00000003", "step-00000004"} <= left.keys()
    assert not {"step-00000001", "step-00000002"} & left.keys()


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind not in ("a copy under a later name",)])
def test_what_stands_where_a_checkpoint_goes_is_set_aside(kind: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(1), keep=2)
    before = everything(tmp_path)
    STRANGE[kind](tmp_path)
    strange = {name: content for name, content in everything(tmp_path).items() if name not in before}
    write_checkpoint(tmp_path, make(12), keep=2)
    assert damage_of(tmp_path / "step-00000012") is None
    left = everything(tmp_path)
    for name, content in strange.items():
        top, _, below = name.partition("/")
        aside = [entry for entry in left if entry.startswith(f"{top}.set-aside-") and "/" not in entry] or [top]
        assert len(aside) == 1
        assert left["/".join(filter(None, (aside[0], below)))] == content


def test_a_file_of_the_users_in_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, make(1), keep=2) / "notes.txt").write_text("mine")
    for step in (2, 3, 4):
        write_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000003", "step-00000004"]
    assert (tmp_path / "step-00000001" / "notes.txt").read_text() == "mine"


def test_damaged_ones_are_not_counted_among_those_that_stay(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, make(step), keep=4)
    for step in (3, 4):
        (write_checkpoint(tmp_path, make(step), keep=4) / "weights.safetensors").write_bytes(b"")
    write_checkpoint(tmp_path, make(5), keep=2)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-00000002", "step-00000003", "step-00000004", "step-00000005"]


def test_a_step_that_is_there_whole_is_not_written_again(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, make(1), keep=2)
    before = path.stat().st_ino
    assert write_checkpoint(tmp_path, make(1), keep=2) == path
    assert path.stat().st_ino == before
    (path / "weights.safetensors").write_bytes(b"")
    write_checkpoint(tmp_path, make(1), keep=2)
    assert damage_of(path) is None


def test_a_save_reads_only_what_it_has_not_verified_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / "before", make(step), keep=3)
    folder = (tmp_path / "before").rename(tmp_path / "moved")  # where, as in a new process, nothing is verified yet
    read: list[str] = []
    monkeypatch.setattr(
        checkpoints,
        "file_sha256",
        lambda file, own=checkpoints.file_sha256: (read.append(file.parent.name), own(file))[1],
    )
    write_checkpoint(folder, make(4), keep=3)
    assert set(read) == {"step-00000002", "step-00000003", "step-00000004"}
    read.clear()
    write_checkpoint(folder, make(5), keep=3)
    assert set(read) == {"step-00000005"}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("", "manifest.json is missing or unreadable"),
        ("{}", "manifest.json is missing or unreadable"),
        ("[]", "manifest.json is missing or unreadable"),
        ('{"sha256": []}', "manifest.json is missing or unreadable"),
        ('{"sha256": {}}', "manifest.json does not list weights.safetensors"),
        ('{"sha256": {"trainer.json": "x"}}', "manifest.json does not list weights.safetensors"),
        ('{"sha256": {"../step-00000001/weights.safetensors": "x"}}', "manifest.json is missing or unreadable"),
        ('{"sha256": {"/etc/passwd": "x"}}', "manifest.json is missing or unreadable"),
        ('{"sha256": {"..": "x"}}', "manifest.json is missing or unreadable"),
    ],
)
def test_a_manifest_that_says_nothing_is_damage(manifest: str, reason: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, make(1), keep=2)
    (path / "manifest.json").write_text(manifest)
    assert damage_of(path) == reason


def test_only_what_the_manifest_lists_is_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, make(1), keep=2)
    (path / "other.safetensors").write_bytes(b"not tensors")
    assert set(read_checkpoint(path).tensors) == {"weights", "optimizer"}


KILLED_EVERYWHERE = """
import os, sys
from pathlib import Path
import shutil
import latent_ae.training.checkpoint.files as checkpoints
from tests.training.checkpoint.test_files import make

def killed_at(folder, fault):
    count = 0
    def point():
        nonlocal count
        count += 1
        if count == fault:
            os.kill(os.getpid(), 9)
    system = (os, ("fsync", "open"))
    for module, names in (system, (Path, ("rename", "mkdir", "open")), (shutil, ("rmtree",))):
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
