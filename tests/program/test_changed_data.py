"""A run goes on with the images that it began with, or is told to go on with others; bad ones may be taken out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from latent_ae.data import FolderConfig
from tests.program.running import arguments

pytestmark = pytest.mark.slow  # whole runs

Main = Callable[[list[str]], int]
SHARE = 0.2


def make_images(folder: Path, count: int = 40) -> Path:
    folder.mkdir()
    for number in range(count):
        draw(folder / f"{number:02d}.png", 5 * number)
    return folder


def draw(file: Path, level: int) -> None:
    Image.linear_gradient("L").resize((16, 16)).rotate(level).point(lambda value: (value + level) % 256).save(file)


def words(folder: Path, steps: int, *more: str) -> list[str]:
    source = ["--data.source", "folder", "--data.path", str(folder / "images"), "--data.heldout_share", str(SHARE)]
    every = ["--train.checkpoint_every_steps", "2", "--train.schedule", "constant", "--data.workers", "0"]
    return arguments(folder, steps, *source, *every, *more)


def trained(folder: Path) -> list[str]:
    """Names of the images to train on."""
    config = FolderConfig(path=str(folder / "images"), heldout_share=SHARE)
    train = config.open().train
    return [train.sample_id(index) for index in range(len(train))]


def error(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


def add(images: Path, names: list[str]) -> str:
    draw(images / "new.png", 1)
    return "1 added (new.png)"


def remove(images: Path, names: list[str]) -> str:
    (images / names[3]).unlink()
    (images / names[4]).unlink()
    return f"2 removed ({names[3]}, ...)"


def replace(images: Path, names: list[str]) -> str:
    Image.new("L", (64, 64), 7).save(images / names[5])
    return f"1 replaced ({names[5]})"


def replace_all_by_others_of_the_same_size(images: Path, names: list[str]) -> str:
    for path in images.iterdir():
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
    return "16 replaced ("


@pytest.mark.parametrize("change", [add, remove, replace, replace_all_by_others_of_the_same_size])
def test_changed_images_are_refused_with_what_changed_and_may_be_accepted(
    change: Callable[[Path, list[str]], str], main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(tmp_path / "images")
    shutil.copytree(images, tmp_path / "before")
    assert main(words(tmp_path, 2)) == 0
    assert main(words(tmp_path, 3)) == 0  # the same images
    told = change(images, trained(tmp_path))
    capsys.readouterr()
    assert main(words(tmp_path, 4)) == 2
    line = error(capsys)
    assert line.startswith(f"error: the images are not those that the run was trained on: {told}")
    assert line.endswith(
        "Give the old ones back, give another --name for a new run, or give --resume changed-data to go on with these"
    )
    if change is replace_all_by_others_of_the_same_size:
        return  # they are damaged
    assert main(words(tmp_path, 4, "--resume", "changed-data")) == 0
    assert main(words(tmp_path, 5)) == 0  # accepted once is accepted
    shutil.rmtree(images)
    shutil.copytree(tmp_path / "before", images)
    assert main(words(tmp_path, 6)) == 2


def test_a_checkpoint_that_was_copied_alone_knows_that_the_images_are_others(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(tmp_path / "images")
    assert main(words(tmp_path, 2)) == 0
    checkpoint = Path(shutil.copytree(tmp_path / "run" / "checkpoints" / "step-00000002", tmp_path / "copy"))
    other = ["--name", "other", "--resume", str(checkpoint)]
    assert main(words(tmp_path, 3, *other)) == 0
    shutil.rmtree(tmp_path / "other")
    add(images, [])
    capsys.readouterr()
    assert main(words(tmp_path, 3, *other)) == 2
    assert "the list of them is not beside the checkpoint; 40 images then, 41 now" in error(capsys)
    # One of an earlier version says nothing of its images.
    values = json.loads((checkpoint / "trainer.json").read_text())
    del values["images"]
    (checkpoint / "trainer.json").write_text(json.dumps(values))
    seal(checkpoint)
    assert main(words(tmp_path, 3, *other)) == 0


def seal(checkpoint: Path) -> None:
    """Make a manifest for the files as they are."""
    import hashlib

    files = [file for file in checkpoint.iterdir() if file.name != "manifest.json"]
    sha256 = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (checkpoint / "manifest.json").write_text(json.dumps({"schema": 1, "sha256": sha256}))


@pytest.mark.parametrize("saved", [False, True], ids=["before its first checkpoint", "after one"])
def test_a_bad_image_that_ended_the_run_may_be_taken_out_or_repaired(
    saved: bool, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(tmp_path / "images")
    first, second, *_ = names = trained(tmp_path)
    good = {name: (images / name).read_bytes() for name in names}
    if saved:
        assert main(words(tmp_path, 2)) == 0
    for name in names[:5]:
        (images / name).write_bytes(good[name])  # the same sizes
    # A tenth of the training part is 3 images; with 0 no image may be bad.
    strict = ["--data.max_bad_share", "0"]
    if saved:
        # The disk rots: the file keeps its name and loses its end.
        (images / first).write_bytes(good[first][:40])
        assert main(words(tmp_path, 40, *strict)) == 2
        assert "replaced" in error(capsys)
        assert main(words(tmp_path, 40, *strict, "--resume", "changed-data")) == 2
    else:
        (images / first).write_bytes(good[first][:40])
        assert main(words(tmp_path, 40, *strict)) == 2
    assert first in error(capsys)
    assert first in (tmp_path / "run" / "skipped.jsonl").read_text()

    (images / first).unlink()  # as told
    assert main(words(tmp_path, 6, *strict)) == 0
    assert first not in (tmp_path / "run" / "skipped.jsonl").read_text() if saved else True
    assert "skipped.jsonl" not in capsys.readouterr().err
    # Put back whole, it is an image that was added.
    (images / first).write_bytes(good[first])
    assert main(words(tmp_path, 8, *strict)) == 2
    assert f"1 added ({first})" in error(capsys)
    assert second


def test_a_repaired_image_is_no_changed_one(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_images(tmp_path / "images")
    first = trained(tmp_path)[0]
    good = (images / first).read_bytes()
    (images / first).write_bytes(good[:40])
    assert main(words(tmp_path, 12)) == 0  # 1 of 32 is 3 % and still no more than a few
    assert first in (tmp_path / "run" / "skipped.jsonl").read_text()
    (images / first).write_bytes(good)
    assert main(words(tmp_path, 14)) == 0
    assert (tmp_path / "run" / "skipped.jsonl").read_text() == ""


def test_a_fresh_run_begins_with_an_empty_ledger(main: Main, tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "skipped.jsonl").write_text(
        "".join(json.dumps({"id": f"gone/{number}.png", "reason": "cut"}) + "\n" for number in range(30))
    )
    assert main(words(tmp_path, 2, "--resume", "never")) == 0
    assert not (tmp_path / "run" / "skipped.jsonl").exists()
