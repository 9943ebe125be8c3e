import os
from pathlib import Path

import numpy as np
import pytest

from latent_ae.config import ModelConfig
from latent_ae.data import DataError, FolderConfig, SourceParts
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
    assert parts_of(tmp_path).left_out == ""
    (tmp_path / "a/x.txt").write_text("a caption of x.jpeg")
    assert parts_of(tmp_path).left_out == ""
    (tmp_path / "a/z.txt").write_text("of no image here")
    assert parts_of(tmp_path).left_out == "1 file is no image that is used: .txt (1)"
    for name in ("one.CR2", "c d/two.cr2", "all.zip", "scene.exr"):
        (tmp_path / name).write_bytes(b"")
    parts = parts_of(tmp_path)
    assert parts.left_out == "5 files are no images that are used: .cr2 (2), .exr (1), .txt (1), .zip (1)"
    config = RunConfig(name="x", data=FolderConfig(path=str(tmp_path)))
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    assert parts.left_out in describe_run(config, parts, model, PixelFormat.picture(3))


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
    with pytest.raises(DataError, match=r"gone does not exist .*: give a folder of images"):
        parts_of(tmp_path / "gone")
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"file.png is a file, not a folder"):
        parts_of(tmp_path / "file.png")
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
