"""Sheets and scans cut into cells."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from latent_ae.config.section import ConfigError, validate
from latent_ae.data import DataError, FolderConfig, ImageSource, SourceParts
from latent_ae.data.grid import Cells, Layout
from latent_ae.data.source import CaptionedSource, ColumnSource, LabelledSource, SizedSource, StoredImages
from latent_ae.data.sources.folder_images import FolderImages
from tests.data.images import ListSource, noise_image


def sheet(rows: int, columns: int, height: int = 8, width: int = 12) -> Image.Image:
    """Cell (row, column), from 0, has the grey level 16 * row + column."""
    levels = (16 * np.arange(rows)[:, None] + np.arange(columns)).astype(np.uint8)
    return Image.fromarray(levels.repeat(height, axis=0).repeat(width, axis=1))


def opened(folder: Path, **settings: Any) -> SourceParts:
    return FolderConfig(path=str(folder), **settings).open()


def ids(part: ImageSource) -> list[str]:
    return [part.sample_id(index) for index in range(len(part))]


@pytest.mark.parametrize("settings", [{"grid": (3, 2)}, {"tile": (8, 12)}])
def test_every_cell_is_an_image_with_the_id_of_its_place(settings: dict[str, Any], tmp_path: Path) -> None:
    for name in "abcdefgh":
        sheet(3, 2).save(tmp_path / f"{name}.png")
    parts = opened(tmp_path, heldout_share=0.4, **settings)
    whole = opened(tmp_path, heldout_share=0.4)
    for part, images in ((parts.train, whole.train), (parts.heldout, whole.heldout)):
        assert ids(part) == [f"{name}@{row},{column}" for name in ids(images) for row in (1, 2, 3) for column in (1, 2)]
        copy = pickle.loads(pickle.dumps(part))
        for index, name in enumerate(ids(part)):
            row, column = (int(place) - 1 for place in name.split("@")[1].split(","))
            for cell in (part.load(index), copy.load(index)):
                assert np.array_equal(np.asarray(cell), np.full((8, 12), 16 * row + column))
        assert isinstance(part, SizedSource)
        assert part.size(3) == (8, 12)
    assert not parts.remarks


def test_cells_of_scans_that_cannot_be_kept_are_decoded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3, 64, 96), np.uint16)
    for number, scan in enumerate(values):
        tifffile.imwrite(tmp_path / f"{number}.tif", scan, tile=(16, 16), compression="zlib")
    settings = {"tile": 32, "value_range": (0, 65535), "heldout_share": 0.5}
    kept = opened(tmp_path, **settings)
    monkeypatch.setattr("latent_ae.data.grid._KEPT_PIXELS", 64 * 96)
    alone = opened(tmp_path, **settings)
    monkeypatch.setattr(FolderImages, "load", None)  # which decodes a whole scan
    count = 0
    for part in (alone.train, alone.heldout):
        for index, name in enumerate(ids(part)):
            number, place = name.split(".tif@")
            top, left = (32 * (int(each) - 1) for each in place.split(","))
            if len(part) > 6:  # of more than one scan
                cell = part.load(index)
                assert np.array_equal(cell[:, :, 0], values[int(number), top : top + 32, left : left + 32])  # type: ignore[index]
                count += 1
    assert count == 12
    with pytest.raises(TypeError):
        kept.train.load(0)


def test_a_border_that_fills_no_tile_and_images_below_one_are_said(tmp_path: Path) -> None:
    sheet(3, 2).save(tmp_path / "whole.png")
    noise_image(0, 29, 17).save(tmp_path / "border.png")
    noise_image(0, 40, 7).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    parts = opened(tmp_path, heldout_share=0, tile=(8, 12))
    assert Counter(name.split("@")[0] for name in ids(parts.train)) == {"whole.png": 6, "border.png": 4}
    assert parts.remarks == (
        "the border that fills no tile is left out in 2 of 4 images",
        "2 left out: 1 whose pixels cannot be read; 1 smaller than data.tile 8x12",
    )
    border = np.asarray(noise_image(0, 29, 17))
    first = ids(parts.train).index("border.png@2,2")
    assert np.array_equal(np.asarray(parts.train.load(first)), border[8:16, 12:24])
    with pytest.raises(DataError, match=r"none of the images is as large as data\.tile 64: lower it"):
        opened(tmp_path, heldout_share=0, tile=64)


def test_cells_of_a_sheet_in_which_nothing_can_be_seen_are_left_out(tmp_path: Path) -> None:
    alpha = np.zeros((24, 24), np.uint8)
    alpha[15, 11] = 1  # the last pixel of cell 2, 1
    alpha[16, 12] = 255
    image = sheet(3, 2)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "sheet.png")
    image.convert("L").save(tmp_path / "opaque.png")
    parts = opened(tmp_path, heldout_share=0, grid=(3, 2))
    assert ids(parts.train)[6:] == ["sheet.png@2,1", "sheet.png@3,2"]
    assert [np.asarray(parts.train.load(index))[0, 0, 0] for index in (6, 7)] == [16, 33]
    assert parts.remarks == ("4 left out: 4 empty cells",)


def test_a_grid_that_does_not_divide_is_refused_with_one_that_does(tmp_path: Path) -> None:
    sheet(6, 8).save(tmp_path / "sheet.png")
    line = r"data\.grid 5 7 does not divide sheet\.png, 48 pixels high and 96 wide: 4 rows and 6 columns would"
    with pytest.raises(DataError, match=line):
        opened(tmp_path, grid=(5, 7))


def test_the_cells_of_a_single_image_are_divided(tmp_path: Path) -> None:
    sheet(10, 10).save(tmp_path / "scan.png")
    parts = opened(tmp_path, heldout_share=0.3, grid=(10, 10))
    train, heldout = ids(parts.train), ids(parts.heldout)
    assert len(train) + len(heldout) == len({*train, *heldout}) == 100
    assert 15 <= len(heldout) <= 45
    assert parts.remarks == ("its cells are divided between training and held-out part, as there is one file",)
    for part in (parts.train, parts.heldout):
        for index, name in enumerate(ids(part)):
            row, column = (int(place) - 1 for place in name.split("@")[1].split(","))
            assert np.asarray(part.load(index))[0, 0] == 16 * row + column
    everything = opened(tmp_path, heldout_share=0, grid=(10, 10))
    assert (len(everything.train), len(everything.heldout)) == (100, 0)


def test_a_cell_has_the_class_caption_and_column_of_its_image(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        (tmp_path / name).parent.mkdir()
        sheet(2, 2).save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,text,weight\ncat/a.png,a cat,3\ndog/b.png,a dog,7\n")
    part = opened(tmp_path, heldout_share=0, grid=(2, 2)).train
    assert isinstance(part, LabelledSource)
    assert isinstance(part, CaptionedSource)
    assert isinstance(part, ColumnSource)
    assert isinstance(part, StoredImages)
    assert part.label_names == ("cat", "dog")
    for index, name in enumerate(ids(part)):
        second = name.startswith("dog")
        assert part.label(index) == second
        assert part.caption(index) == ("a dog" if second else "a cat")
        assert part.column("weight")[index] == (7 if second else 3)
        assert part.stored_bytes(index) == (tmp_path / name.split("@")[0]).read_bytes()
    assert list(part.stored()) == [(name, len(part.stored_bytes(index))) for index, name in enumerate(ids(part))]


def test_an_image_is_decoded_once_for_cells_that_follow_each_other() -> None:
    class Counted(ListSource):
        loads = 0

        def load(self, index: int) -> Image.Image:
            Counted.loads += 1
            return super().load(index)

    cells = Cells(Counted([sheet(2, 2), sheet(2, 2)]), [Layout(2, 2, 8, 12)] * 2, np.arange(8))
    for index in (0, 5, 1, 6, 2):
        cells.load(index)
    assert Counted.loads == 2


def test_numbers_are_cut_in_their_own_values() -> None:
    scan = np.arange(24 * 24 * 3, dtype=np.uint16).reshape(24, 24, 3)
    cells = Cells(ListSource([scan]), [Layout(3, 2, 8, 12)], np.arange(6))
    assert np.array_equal(cells.load(3), scan[8:16, 12:24])


def test_an_image_that_is_smaller_than_its_header_says_is_broken() -> None:
    with pytest.raises(Exception, match="it is 16 pixels high and 24 wide, less than its header says"):
        Cells(ListSource([sheet(2, 2)]), [Layout(3, 2, 8, 12)], np.arange(6)).load(4)


def test_grid_and_tile_are_one_choice() -> None:
    with pytest.raises(ConfigError, match=r"data\.grid and data\.tile both say how"):
        validate(FolderConfig, {"path": "x", "grid": [2, 2], "tile": 8})
