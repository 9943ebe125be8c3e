"""Which files are meant, and where what is made of them goes."""

import time
from pathlib import Path, PurePath

import pytest

from latent_ae.errors import UserError
from latent_ae.io.paths import find_files, output_names


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def places(root: Path, **more: Path) -> list[str]:
    return [str(source.place) for source in find_files([root], {".png", ".jpg"}, **more).sources]


def test_a_folder_stands_for_what_is_in_it_sorted_without_what_is_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "c/a.png", "a/z/y.jpg", "note.txt", ".hidden.png", ".cache/a.png", "c/._a.png")
    assert places(tmp_path) == ["a.JPG", "a/z/y.jpg", "b.png", "c/a.png"]


def test_files_that_are_named_come_as_they_are_and_once(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "x/b.txt", ".hidden.png")
    named = [
        tmp_path / "x/b.txt",
        tmp_path / "x",
        tmp_path / "x/../x/a.png",
        tmp_path / "gone.png",
        tmp_path / ".hidden.png",
    ]
    found = find_files(named, {".png"}).sources
    assert [source.path for source in found] == [named[0], tmp_path / "x/a.png", named[3], named[4]]
    assert [str(source.place) for source in found] == ["b.txt", "a.png", "gone.png", ".hidden.png"]


def test_links_to_folders_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/1.png", "other/2.png")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "c").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    assert places(tmp_path / "root") == ["a/1.png", "b/2.png"]


def test_the_output_folder_below_is_not_entered_and_above_is_no_matter(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/out/a.png", "in/outer/b.png")
    assert places(tmp_path / "in", without=tmp_path / "in" / "x" / ".." / "out") == ["a.png", "outer/b.png"]
    for without in (tmp_path / "in", tmp_path, tmp_path / "none"):
        assert places(tmp_path / "in", without=without) == ["a.png", "out/a.png", "outer/b.png"]


def test_a_folder_without_any_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "note.txt")
    with pytest.raises(UserError, match=r"holds no files that end in \.jpg, \.png"):
        places(tmp_path)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.jpg"], ["a.png", "b.png"]),
        (["one/a.png", "two/a.png"], ["one/a.png", "two/a.png"]),
        (["a.png", "a.png"], ["a.png", "a.png.png"]),
        (["a.jpg", "a.tif"], ["a.png", "a.tif.png"]),
        (["a.jpg", "A.jpg"], ["a.png", "A.jpg.png"]),
        (["a.jpg", "a.jpg", "a.jpg", "a.jpg"], ["a.png", "a.jpg.png", "a-2.png", "a-3.png"]),
        (["a-2.jpg", "a.jpg", "a.jpg", "a.jpg"], ["a-2.png", "a.png", "a.jpg.png", "a-3.png"]),
        (["a.jpg.tif", "a.jpg", "a.jpg"], ["a.jpg.png", "a.png", "a-2.png"]),
        (["a.b.png", ".hidden", "no suffix"], ["a.b.png", ".hidden.png", "no suffix.png"]),
    ],
)
def test_no_two_files_are_written_to_one_name(files: list[str], names: list[str]) -> None:
    assert [str(name) for name in output_names([PurePath(file) for file in files], ".png")] == names


def test_thousands_of_one_name_take_no_time() -> None:
    started = time.process_time()
    assert len(set(output_names([PurePath("a.png")] * 20_000, ".png"))) == 20_000
    assert time.process_time() - started < 10
