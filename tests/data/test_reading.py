"""Files of numbers and their pages in every source that reads files."""

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets
import nibabel
import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from latent_ae.data import SOURCES, FolderConfig, ImageSource, SourceParts
from latent_ae.data.reading import FURTHER_PAGES
from latent_ae.errors import BrokenImage

DEEP = np.random.default_rng(0).integers(0, 65536, (3, 8, 10), dtype=np.uint16)
"""[pages, H, W], values that have no place in 8 bits"""
RANGE = {"value_range": (0, 65535)}


def tiff(pages: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pages, photometric="minisblack")
    return stream.getvalue()


def write_files(root: Path) -> Path:
    (root / "train").mkdir()
    (root / "test").mkdir()
    (root / "train" / "a.tif").write_bytes(tiff(DEEP))
    (root / "train" / "b.tif").write_bytes(tiff(DEEP[1]))
    (root / "test" / "c.tif").write_bytes(tiff(DEEP[:2]))
    return root


def write_tar(root: Path) -> Path:
    for split, keys in ("train", {"a": DEEP, "b": DEEP[1]}), ("test", {"c": DEEP[:2]}):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            for key, pages in keys.items():
                entry = tarfile.TarInfo(f"{key}.tif")
                entry.size = len(content := tiff(pages))
                archive.addfile(entry, io.BytesIO(content))
    return root


def write_table(root: Path) -> Path:
    for split, files in ("train", [DEEP, DEEP[1]]), ("test", [DEEP[:2]]):
        rows = {"image": [{"bytes": tiff(pages), "path": None} for pages in files]}
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return root


CASES = {
    "folder": (write_files, "folder", ("train/a.tif", "train/b.tif", "test/c.tif")),
    "images-hub": (write_files, "hub", ("train/00000000", "train/00000001", "test/00000000")),
    "images-stream": (write_files, "stream", ("train/a.tif", "train/b.tif", "test/c.tif")),
    "tar-hub": (write_tar, "hub", ("train/00000000", "train/00000001", "test/00000000")),
    "tar-stream": (write_tar, "stream", ("train.tar/a", "train.tar/b", "test.tar/c")),
    "table-hub": (write_table, "hub", ("train/00000000", "train/00000001", "test/00000000")),
    "table-stream": (
        write_table,
        "stream",
        ("train.parquet/00000000", "train.parquet/00000001", "test.parquet/00000000"),
    ),
}


def values(part: ImageSource) -> dict[str, np.ndarray[Any, Any]]:
    found = {part.sample_id(index): part.load(index) for index in range(len(part))}
    assert all(isinstance(image, np.ndarray) for image in found.values())
    return found  # type: ignore[return-value]  # as was just seen


def same(found: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]) -> None:
    assert sorted(found) == sorted(expected)
    for name, image in expected.items():
        assert found[name].dtype == image.dtype
        assert np.array_equal(found[name], image[:, :, None]), name


@pytest.mark.parametrize("case", CASES)
def test_numbers_and_pages_are_those_of_the_file(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write, source, (a, b, c) = CASES[case]
    (tmp_path / "data").mkdir()
    path = str(write(tmp_path / "data"))

    def opened(**settings: Any) -> SourceParts:
        return SOURCES[source](path=path, **RANGE, **settings).open()

    first = opened()
    same(values(first.train), {a: DEEP[0], b: DEEP[1]})
    same(values(first.heldout), {c: DEEP[0]})
    every = opened(pages="all")
    same(values(every.train), {f"{a}#0": DEEP[0], f"{a}#1": DEEP[1], f"{a}#2": DEEP[2], b: DEEP[1]})
    same(values(every.heldout), {f"{c}#0": DEEP[0], f"{c}#1": DEEP[1]})
    assert not every.left_out
    if write is write_files:  # to count those in tables and tars would be to read them all
        assert first.left_out == {FURTHER_PAGES: 3}
    second = opened(pages=1)
    same(values(second.heldout), {c: DEEP[1]})
    with pytest.raises(BrokenImage, match="page 1 was asked for, and it has one page"):
        values(second.train)


def test_slices_of_a_volume_are_counted_along_an_axis_and_stay_in_one_part(tmp_path: Path) -> None:
    volume = np.random.default_rng(1).normal(size=(8, 9, 10)).astype(np.float32)
    for name in ("a", "b", "c", "d"):
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")  # type: ignore[attr-defined,no-untyped-call]
    for axis, count in (None, 10), (0, 8), (1, 9):
        parts = FolderConfig(path=str(tmp_path), value_range=(-4, 4), pages="all", axis=axis, heldout_share=0.5).open()
        train, heldout = (
            {part.sample_id(index).split("#")[0] for index in range(len(part))} for part in (parts.train, parts.heldout)
        )
        assert not train & heldout
        assert len(parts.train) + len(parts.heldout) == 4 * count
        image = parts.train.load(3)
        assert isinstance(image, np.ndarray)
        assert sorted(image[:, :, 0].ravel().tolist()) == sorted(
            np.take(volume, 3, axis=2 if axis is None else axis).ravel().tolist()
        )


def test_pages_without_numbers_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"data\.pages takes effect only where images are read as numbers"):
        FolderConfig(path="x", pages="all")
