"""No damaged data set of latents is called complete; the command that is named makes anew only what is damaged."""

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latent_ae.inference import Codec
from latent_ae.latent_dataset import LatentDataset, LatentDatasetError, verify
from latent_ae.latent_dataset.index import write_index
from latent_ae.latent_dataset.manifest import read_manifest
from latent_ae.latent_dataset.settings import command, describe_work
from tests.data.images import noise_image
from tests.latent_dataset.conftest import NAMES
from tests.latent_dataset.made import encoder_of, files, index, make, opened, settings
from tests.program.forked import ROOT
from tests.program.running import here, load_program

SHARD, RECORD = "shards/00001.safetensors", "shards/00001.json"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load_program(ROOT / "train" / "encode_dataset.py")


@pytest.fixture(scope="module")
def other(models: Path, originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of other images of the same names: every file has the same name and about the same size."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(originals / "pictures", folder / "pictures")
    for seed, name in enumerate(NAMES):
        noise_image(100 + seed).save(folder / "pictures" / name)
    make(settings(models / "kl", folder / "latents", path=folder / "pictures"))
    return folder / "latents"


def truncate(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path, _: Path) -> None:
    path.unlink()


def replace(path: Path, other: Path) -> None:
    shutil.copy(other, path)


Damage = Callable[[Path, Path], None]
DAMAGES = [truncate, flip, empty, delete, replace]


def rerun(program: ModuleType, cure: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """What a shell would do with the command."""
    words = shlex.split(cure)
    if words[0] == "rm":
        end = words.index("&&")
        for name in words[1:end]:
            Path(name).unlink()
        words = words[end + 1 :]
    assert words[:2] == ["python", "train/encode_dataset.py"]
    capsys.readouterr()
    status = here(program)(words[2:])
    return status, "".join(capsys.readouterr())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("names", [["index.parquet"], ["stats.json"], [SHARD], [RECORD], [SHARD, RECORD]])
def test_what_is_damaged_is_named_and_made_anew(  # noqa: PLR0917  # fixtures
    latents: Path,
    other: Path,
    program: ModuleType,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    damage: Damage,
) -> None:
    whole, times = files(latents), {path: path.stat().st_mtime_ns for path in (latents / "shards").iterdir()}
    for name in names:
        damage(latents / name, other / name)
    found = verify(latents, count=0)
    assert any(str(latents / name) in problem for name in names for problem in found.problems)
    assert found.cure is not None
    status, said = rerun(program, found.cure, capsys)
    assert status == 0
    assert "is complete" not in said
    assert ("the shard is made again" in said) == ((RECORD in names and damage != delete) or names == [SHARD])
    assert files(latents) == whole
    changed = {path.stem for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert changed <= {"00001"}
    assert rerun(program, found.cure, capsys)[1].splitlines()[-1] == f"{latents} is complete"


@pytest.mark.parametrize(
    ("name", "damages"),
    [
        ("index.parquet", DAMAGES),
        ("stats.json", DAMAGES),
        (SHARD, [truncate, empty, delete]),  # one of the same size is for `verify` to find: it reads all of it
    ],
)
def test_training_does_not_start_on_it(latents: Path, other: Path, name: str, damages: list[Damage]) -> None:
    content = (latents / name).read_bytes()
    for damage in damages:
        damage(latents / name, other / name)
        message = r"^.* is not complete: .*, run: python train/encode_dataset\.py .*$"
        with pytest.raises(LatentDatasetError, match=message):
            LatentDataset(latents)
        (latents / name).write_bytes(content)
    assert len(LatentDataset(latents)) == len(NAMES)


@pytest.mark.parametrize("name", ["skipped.jsonl", "duplicates.jsonl"])
def test_the_lists_are_made_anew_too(
    latents: Path, program: ModuleType, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    whole = files(latents)
    (latents / name).write_bytes(b"damaged")
    found = verify(latents, count=0)
    assert found.problems == [
        f"{latents / name} is not the file that the data set was completed with: it was damaged or changed"
    ]
    assert rerun(program, str(found.cure), capsys)[0] == 0
    assert files(latents) == whole


def test_the_card_is_the_users_to_edit(latents: Path, models: Path, pictures: Path) -> None:
    (latents / "README.md").write_text("My latents\n")
    before = files(latents)
    assert verify(latents, count=0).problems == []
    make(settings(models / "kl", latents, path=pictures))
    assert files(latents) == before


def test_shards_that_were_put_in_the_place_of_others_are_made_anew(latents: Path, models: Path, pictures: Path) -> None:
    whole = files(latents)
    for suffix in ("safetensors", "json"):
        shutil.copy(latents / f"shards/00000.{suffix}", latents / f"shards/00001.{suffix}")
    assert "00001.json is the record of another shard or data set" in verify(latents, count=0).problems[0]
    make(settings(models / "kl", latents, path=pictures))
    assert files(latents) == whole


@pytest.mark.parametrize("name", ["index.parquet", "stats.json", "skipped.jsonl", SHARD, RECORD])
def test_a_folder_in_the_place_of_a_file_is_not_touched(latents: Path, models: Path, pictures: Path, name: str) -> None:
    (latents / name).unlink()
    (latents / name).mkdir()
    (latents / name / "mine").write_text("x")
    with pytest.raises(LatentDatasetError, match=f"{name} is not a file: move it to another place"):
        make(settings(models / "kl", latents, path=pictures))
    assert (latents / name / "mine").read_text() == "x"
    assert any(name in problem for problem in verify(latents, count=0).problems)


def test_files_named_like_ours_stay_and_count_for_nothing(latents: Path, models: Path, pictures: Path) -> None:
    strangers = ["shards/00001-backup.json", "shards/99999.json", "shards/1.safetensors", "shards/.partial-of-mine"]
    for name in (*strangers, ".partial-notes", "index.parquet.old", "stats-2.json"):
        (latents / name).write_bytes(b"mine")
    (latents / "shards" / "00002.json.d").mkdir()
    before = files(latents)
    make(settings(models / "kl", latents, path=pictures))
    assert files(latents) == before
    assert (verify(latents, count=0).problems, len(LatentDataset(latents))) == ([], len(NAMES))


def test_the_command_says_all_that_was_asked_for(
    models: Path, pictures: Path, tmp_path: Path, program: ModuleType
) -> None:
    out = tmp_path / "with space"
    for changes in (
        {"resolution": 8, "flips": True, "dtype": "float32", "shard_images": 3},
        {"logvar": False, "part": "train", "precision": "fp32", "batch_size": 2},
        {"data": {"source": "folder", "path": str(pictures), "heldout_share": 0.3, "background": (1, 2, 3)}},
    ):
        asked = settings(models / "kl", out, path=pictures)
        asked = type(asked).model_validate({**asked.model_dump(), **changes})
        manifest = describe_work(asked, opened(asked), encoder_of(asked))
        parsed = program.parse(shlex.split(command(out, manifest))[2:])
        assert describe_work(parsed, opened(parsed), encoder_of(parsed)) == manifest
        assert parsed.out == asked.out


def as_earlier_versions_wrote(folder: Path) -> None:
    """Without checksums, and without what they say besides."""
    for path in (folder / "shards").glob("*.json"):
        rewrite_json(path, {"checksum", "fingerprint", "shard"})
    rewrite_json(folder / "stats.json", {"checksum", "fingerprint", "files"})
    rewrite_json(folder / "manifest.json", {"checksum"})


def rewrite_json(path: Path, without: set[str]) -> None:
    tree: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in tree.items() if key not in without}))


def test_what_earlier_versions_wrote_is_read_and_gone_on_with(latents: Path, models: Path, pictures: Path) -> None:
    as_earlier_versions_wrote(latents)
    shards = {name: content for name, content in files(latents).items() if name.startswith("shards")}
    assert (verify(latents, count=0).problems, len(LatentDataset(latents))) == ([], len(NAMES))
    make(settings(models / "kl", latents, path=pictures))
    assert shards.items() <= files(latents).items()
    assert (verify(latents, count=0).problems, len(LatentDataset(latents))) == ([], len(NAMES))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["rows"][0].update(row=7),
        lambda record: record["rows"][0].pop("label"),
        lambda record: record["statistics"].pop("mean"),
        lambda record: record["statistics"]["mean"].__setitem__(0, 1.5),
        lambda record: record.update(rows=[1]),
        lambda record: record.update(sha256="0" * 64),
    ],
)
def test_a_damaged_record_of_an_earlier_version_is_made_anew(
    latents: Path, models: Path, pictures: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    rows = index(latents)
    as_earlier_versions_wrote(latents)
    record = json.loads((latents / RECORD).read_text())
    change(record)
    (latents / RECORD).write_text(json.dumps(record))
    assert "shards/00001" in verify(latents, count=0).problems[0]
    make(settings(models / "kl", latents, path=pictures))
    assert (verify(latents, count=0).problems, index(latents)) == ([], rows)


class Killed(BaseException):
    """In the place of SIGKILL: nothing that the program does after it counts."""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Stop at the n-th sync, rename or removal of a file: killed before it, or for odd n told that the disk is full."""
    state = {"step": 0, "left": -1}

    def guarded(work: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            state["left"] -= 1
            if state["left"] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if state["step"] % 2 else Killed
            return work(*given, **named)

        return step

    for place, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(place, name, guarded(getattr(place, name)))
    return lambda step: state.update(step=step, left=step)


@pytest.mark.parametrize(("damaged", "least"), [(None, 20), ("index.parquet", 2), (SHARD, 8)], ids=str)
def test_stopped_at_every_step_it_is_complete_or_says_not(  # noqa: PLR0917  # fixtures
    models: Path, pictures: Path, tmp_path: Path, stop_at: Callable[[int], None], damaged: str | None, least: int
) -> None:
    """New, or making anew what was damaged. Nothing is called complete but the whole, which comes in the end."""
    codec = Codec.load(str(models / "kl"), precision="exact", tile=None)
    original, out, steps = tmp_path / "original", tmp_path / "out", 0
    shard_images = len(NAMES) if damaged is None else 4
    make(settings(models / "kl", original, path=pictures, shard_images=shard_images), codec=codec)
    config, whole = settings(models / "kl", out, path=pictures, shard_images=shard_images), files(original)
    while True:
        steps += 1
        shutil.rmtree(out, ignore_errors=True)
        if damaged is not None:
            shutil.copytree(original, out)
            truncate(out / damaged, out)
        stop_at(steps)
        try:
            make(config, codec=codec)
        except (Killed, OSError):
            stop_at(-1)
        else:
            break
        try:
            LatentDataset(out)
        except LatentDatasetError:
            make(config, codec=codec)
        assert files(out) == whole
    assert steps > least


def test_a_process_that_finds_a_record_damaged_at_the_end_writes_no_index(latents: Path) -> None:
    (latents / "index.parquet").unlink()
    flip(latents / RECORD, latents)
    with pytest.raises(LatentDatasetError, match=r"00001\.json does not match its checksum"):
        write_index(latents)
    assert not (latents / "index.parquet").exists()
    assert read_manifest(latents).shards == 3
