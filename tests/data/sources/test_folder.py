import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from latent_ae.config import ModelConfig
from latent_ae.data import DataError, FolderConfig, ImageSource, SourceParts
from latent_ae.data.sources.folder_images import FolderImages
from latent_ae.io.image import BrokenImage, to_uint8
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from latent_ae.training.describe import describe_run
from latent_ae.training.settings import RunConfig
from tests.data.images import noise_image, write_images


def parts_of(path: Path, share: float = 0.5) -> SourceParts:
    return FolderConfig(path=str(path), heldout_share=share).open()


def ids_of(parts: SourceParts) -> list[str]:
    return sorted(part.sample_id(i) for part in (parts.train, parts.heldout) for i in range(len(part)))


NAMES = ["b.PNG", "a/x.jpeg", "a/y.TIF", "a/deep/er/z.webp", "c d/é.bmp", "e.gif"]


def test_images_are_found_at_any_depth_and_read(tmp_path: Path) -> None:
    write_images(tmp_path, NAMES)
    for other in ("notes.txt", "a/table.csv", "no_suffix", ".hidden.png", "a/._x.jpeg", ".thumbnails/x.png"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"no image")
    parts = parts_of(tmp_path)
    assert ids_of(parts) == sorted(NAMES)
    index = next(i for i in range(len(parts.train)) if parts.train.sample_id(i) in ("b.PNG", "a/y.TIF"))
    seed = NAMES.index(parts.train.sample_id(index))
    assert np.array_equal(to_uint8(parts.train.load(index), 3), np.asarray(noise_image(seed)))


def test_ids_do_not_depend_on_where_the_folder_lies_or_when_its_files_were_made(tmp_path: Path) -> None:
    write_images(tmp_path / "one", NAMES)
    write_images(tmp_path / "other", NAMES[::-1])
    one, other = (parts_of(tmp_path / name) for name in ("one", "other"))
    for name in ("train", "heldout"):
        first, second = getattr(one, name), getattr(other, name)
        ids = [first.sample_id(i) for i in range(len(first))]
        assert ids == sorted(ids)
        assert ids == [second.sample_id(i) for i in range(len(second))]


def test_files_that_are_not_used_are_counted_and_named_at_the_start_of_a_run(tmp_path: Path) -> None:
    write_images(tmp_path, NAMES)
    assert not parts_of(tmp_path).left_out
    (tmp_path / "a/x.txt").write_text("a caption of x.jpeg")
    assert not parts_of(tmp_path).left_out
    (tmp_path / "a/z.txt").write_text("of no image here")
    assert str(parts_of(tmp_path).left_out) == "1 left out: 1 not read as images: .txt (1)"
    for name in ("one.CR2", "c d/two.cr2", "all.zip", "scene.exr"):
        (tmp_path / name).write_bytes(b"")
    parts = parts_of(tmp_path)
    assert parts.left_out == {"not read as images: .cr2 (2), .exr (1), .txt (1), .zip (1)": 5}
    config = RunConfig(name="x", data=FolderConfig(path=str(tmp_path)))
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    assert str(parts.left_out) in describe_run(config, parts, model, PixelFormat.picture(3))


def test_links_to_folders_are_followed_once_and_never_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_images(root, ["real/a.png", "real/b.png"])
    write_images(tmp_path, ["elsewhere/c.png", "elsewhere/sub/d.png"])
    (root / "again").symlink_to(root / "real")
    (root / "real" / "circle").symlink_to(root)
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "out2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "real")
    assert ids_of(parts_of(root)) == ["out/c.png", "out/sub/d.png", "real/a.png", "real/b.png"]


def test_a_broken_and_a_vanished_image(tmp_path: Path) -> None:
    write_images(tmp_path, NAMES)
    parts = parts_of(tmp_path)
    path = tmp_path / parts.train.sample_id(0)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BrokenImage, match=str(path)):
        parts.train.load(0)
    path.unlink()
    with pytest.raises(BrokenImage, match="there is no such file"):
        parts.train.load(0)


def test_what_is_no_folder_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone does not exist .*: give a folder, a list"):
        parts_of(tmp_path / "gone")
    (tmp_path / "file.cr2").write_bytes(b"")
    with pytest.raises(DataError, match=r"file.cr2 holds no images: its 1 files end in .cr2"):
        parts_of(tmp_path / "file.cr2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images: it is empty; images end in .avif, .bmp"):
        parts_of(tmp_path / "empty")


def test_a_folder_of_other_files_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.txt", "b.TXT", "c.txt", "d.csv", "README"):
        (tmp_path / name).write_text("words")
    with pytest.raises(
        DataError, match=r"holds no images: its 5 files end in \.txt \(3\), \.csv \(1\), no suffix \(1\);"
    ):
        parts_of(tmp_path)


def test_an_empty_part_names_the_folder_and_the_setting(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    with pytest.raises(
        DataError, match=f"data.path {tmp_path}: none of its 2 images .* data.heldout_share 0.001: raise"
    ):
        parts_of(tmp_path, 0.001)


def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, ["a.png", "b/c.png"])
    scandir = os.scandir

    def forbidding(path: str) -> object:
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)  # root, who may run the tests, may list every folder
    with pytest.raises(DataError, match=r"cannot list .*b: Permission denied"):
        parts_of(tmp_path)


# ------------------------------------------------------------------------------------- splits, lists, tables, labels


def ids(part: ImageSource) -> list[str]:
    return [part.sample_id(index) for index in range(len(part))]


def opened(path: Path, **settings: Any) -> tuple[FolderImages, FolderImages]:
    parts = FolderConfig(path=str(path), **settings).open()
    assert isinstance(parts.train, FolderImages)
    assert isinstance(parts.heldout, FolderImages)
    return parts.train, parts.heldout


def labels(part: FolderImages) -> list[int | None]:
    return [part.label(index) for index in range(len(part))]


def test_classes_are_the_folders_below_those_of_the_splits(tmp_path: Path) -> None:
    write_images(tmp_path, ["Train/cat/a.png", "Train/dog/b.png", "Train/c.png", "valid/dog/d.png", "valid/emu/e.png"])
    train, heldout = opened(tmp_path)
    assert ids(train) == ["Train/c.png", "Train/cat/a.png", "Train/dog/b.png"]
    assert ids(heldout) == ["valid/dog/d.png", "valid/emu/e.png"]
    assert train.label_names == heldout.label_names == ("cat", "dog", "emu")
    assert (labels(train), labels(heldout)) == ([None, 0, 1], [1, 2])


@pytest.mark.parametrize("names", [["car/a.png", "train/b.png"], ["rail/train/a.png", "rail/bus/b.png"]])
def test_a_class_may_be_named_train(names: list[str], tmp_path: Path) -> None:
    write_images(tmp_path, names)
    train, heldout = opened(tmp_path, heldout_share=0.5)
    assert train.label_names == tuple(sorted({name.split("/")[0] for name in names}))
    assert sorted(ids(train) + ids(heldout)) == sorted(names)


def test_images_to_hold_out_may_lie_elsewhere_or_below_the_others(tmp_path: Path) -> None:
    write_images(
        tmp_path, ["all/cat/a.png", "all/dog/b.png", "all/mine/dog/c.png", "other/dog/c.png", "other/cow/d.png"]
    )
    train, heldout = opened(tmp_path / "all", heldout_path=str(tmp_path / "other"))
    assert ids(train) == ["cat/a.png", "dog/b.png", "mine/dog/c.png"]
    assert ids(heldout) == ["heldout:cow/d.png", "heldout:dog/c.png"]
    assert train.label_names == ("cat", "cow", "dog", "mine")
    assert (labels(train), labels(heldout)) == ([0, 2, 3], [1, 2])
    assert np.array_equal(np.asarray(heldout.load(1)), np.asarray(noise_image(3)))
    train, heldout = opened(tmp_path / "all", heldout_path=str(tmp_path / "all" / "mine"))
    assert (ids(train), ids(heldout)) == (["cat/a.png", "dog/b.png"], ["mine/dog/c.png"])
    assert (labels(train), labels(heldout)) == ([0, 1], [1])
    with pytest.raises(ValidationError, match=r"data\.heldout_share has no effect with data\.heldout_path"):
        FolderConfig(path="x", heldout_path="y", heldout_share=0.2)


def test_lists_of_files_that_are_trained_on_and_held_out(tmp_path: Path) -> None:
    write_images(tmp_path, ["images/a.png", "images/b.png", "images/c.png"])
    (tmp_path / "train.txt").write_text("images/b.png\n\nimages/a.png\nimages/c.png\n")
    (tmp_path / "test.txt").write_text(f"{tmp_path / 'images/c.png'}\n")
    train, heldout = opened(tmp_path / "train.txt", heldout_path=str(tmp_path / "test.txt"))
    assert (ids(train), ids(heldout)) == (["images/a.png", "images/b.png"], ["images/c.png"])
    (tmp_path / "train.txt").write_text("images/a.png\nimages/x.png\nimages/y.png\n")
    with pytest.raises(
        DataError, match=r"train\.txt: line 2 names images/x\.png, which does not exist .*, nor do 1 others"
    ):
        opened(tmp_path / "train.txt")
    with pytest.raises(DataError, match=r"names .*images/d\.png, which does not exist: correct the pattern"):
        opened(tmp_path / "images" / "{a,b,c,d}.png")


def test_labels_and_captions_of_a_table(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "all.csv").write_text(
        'where,split,label,text,age\na.png,train,owl,an owl,3\nb.png,val,cat,,4\nc.png,train,,"1, 2",5\n'
    )
    with pytest.raises(
        DataError, match=r"has the columns where, split, label, text, age, expected one of file_name, path"
    ):
        opened(tmp_path / "all.csv")
    train, heldout = opened(tmp_path / "all.csv", path_column="where")
    assert (ids(train), ids(heldout)) == (["a.png", "c.png"], ["b.png"])
    assert train.label_names == ("cat", "owl")
    assert (labels(train), labels(heldout)) == ([1, None], [0])
    assert [train.caption(0), train.caption(1), heldout.caption(0)] == ["an owl", "1, 2", None]
    assert [train.column("age")[1], heldout.column("text")[0]] == [5, None]
    with pytest.raises(
        DataError, match=r"hue is no column of the images in .*; their columns are age, label, split, te"
    ):
        train.column("hue")


def test_metadata_beside_the_images_give_labels_captions_and_splits(tmp_path: Path) -> None:
    write_images(tmp_path, ["x/a.png", "x/b.png", "x/c.png"])
    rows = [{"file_name": "a.png", "label": 7, "text": "one"}, {"file_name": "b.png", "label": 2, "fold": "test"}]
    (tmp_path / "x" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, heldout = opened(tmp_path, split_column="fold", train_split="none")
    assert (ids(train), ids(heldout)) == (["x/a.png", "x/c.png"], ["x/b.png"])
    assert (train.label_names, labels(train), labels(heldout)) == ((), [7, None], [2])
    assert train.caption(0) == "one"
    with pytest.raises(DataError, match=r"data\.split_column hue is in no table or metadata of the images"):
        opened(tmp_path, split_column="hue")


def test_nothing_to_train_on_is_said_where_a_run_starts(tmp_path: Path) -> None:
    write_images(tmp_path, ["test/a.png", "test/b.png"])
    parts = FolderConfig(path=str(tmp_path)).open()
    assert len(parts.heldout) == 2
    with pytest.raises(DataError, match=r"no images to train on: all are held out; data\.train_split names the split"):
        parts.for_training()
    with pytest.raises(DataError, match="no images are held out to measure on"):
        FolderConfig(path=str(tmp_path), train_split="test", heldout_share=0).open().for_training()


def test_an_address_that_cannot_be_opened_is_one_clear_line() -> None:
    with pytest.raises(DataError, match=r"data\.path nowhere://a cannot be opened: ValueError: Protocol not known"):
        FolderConfig(path="nowhere://a").open()
