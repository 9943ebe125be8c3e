import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest

from latent_ae.data import SOURCES, DataError, HubConfig, ImageSource, SourceParts
from latent_ae.data.sources import datasets_library, hub
from latent_ae.io.image import BrokenImage, to_uint8
from tests.data.images import noise_image, write_images


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def stored(seed: int) -> dict[str, Any]:
    stream = io.BytesIO()
    noise_image(seed).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def table(rows: int, first: int = 0) -> datasets.Dataset:
    features = datasets.Features({"label": datasets.Value("int64"), "picture": datasets.Image()})
    columns = {"label": list(range(rows)), "picture": [stored(first + row) for row in range(rows)]}
    return datasets.Dataset.from_dict(columns, features=features)


def parts_of(path: Path, **settings: Any) -> SourceParts:
    return HubConfig(path=str(path), **settings).open()


def ids(part: ImageSource) -> list[str]:
    return [part.sample_id(index) for index in range(len(part))]


def write_parquet(folder: Path) -> Path:
    table(12).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def write_parquet_folder(folder: Path) -> Path:
    table(7).to_parquet(folder / "train-00000-of-00002.parquet")
    table(5, first=7).to_parquet(folder / "train-00001-of-00002.parquet")
    return folder


def write_arrow(folder: Path) -> Path:
    table(12).save_to_disk(folder / "saved")
    return folder / "saved" / "data-00000-of-00001.arrow"


def write_saved(folder: Path) -> Path:
    table(12).save_to_disk(folder)
    return folder


WRITERS = [write_parquet, write_parquet_folder, write_arrow, write_saved]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_one_split_is_divided_by_a_hash_of_the_row(write: Callable[[Path], Path], tmp_path: Path) -> None:
    parts = parts_of(write(tmp_path), heldout_share=0.4)
    rows = [f"train/{row:08d}" for row in range(12)]
    assert sorted(ids(parts.train) + ids(parts.heldout)) == rows
    assert ids(parts.heldout) == HELDOUT_OF_TWELVE
    for part in (parts.train, parts.heldout):
        for index in range(len(part)):
            seed = rows.index(part.sample_id(index))
            assert np.array_equal(to_uint8(part.load(index), 3), np.asarray(noise_image(seed)))


# sha256 of "train/00000000" ... below 0.4
HELDOUT_OF_TWELVE = ["train/00000001", "train/00000002", "train/00000004", "train/00000011"]


@pytest.mark.parametrize(
    ("splits", "settings", "expected"),
    [
        (["train", "validation", "test"], {}, ("train", "validation")),
        (["train", "test"], {}, ("train", "test")),
        (["train", "validation", "test"], {"heldout_split": "test"}, ("train", "test")),
        (["small", "train", "dev"], {"train_split": "small", "heldout_split": "dev"}, ("small", "dev")),
        (["train", "test"], {"train_split": "test", "heldout_split": "train"}, ("test", "train")),
        (["train", "validation"], {"train_split": "validation", "heldout_share": 0.5}, ("validation", "validation")),
        (["everything"], {"heldout_share": 0.5}, ("everything", "everything")),
    ],
)
def test_splits(splits: list[str], settings: dict[str, Any], expected: tuple[str, str], tmp_path: Path) -> None:
    saved = datasets.DatasetDict({name: table(4, first=10 * i) for i, name in enumerate(splits)})
    saved.save_to_disk(tmp_path)
    parts = parts_of(tmp_path, **settings)
    for part, name in zip((parts.train, parts.heldout), expected, strict=True):
        assert {sample_id.split("/")[0] for sample_id in ids(part)} == {name}
        seed = 10 * splits.index(name) + int(part.sample_id(0).split("/")[1])
        assert np.array_equal(to_uint8(part.load(0), 3), np.asarray(noise_image(seed)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"data\.train_split \(unset, so\) train is not among its splits: one, two"),
        ({"train_split": "three"}, r"data\.train_split three is not among its splits: one, two"),
        ({"train_split": "one", "heldout_split": "six"}, r"data\.heldout_split six is not among its splits: one, two"),
        ({"train_split": "one", "heldout_split": "one"}, "the training split one is also data.heldout_split"),
    ],
)
def test_splits_that_are_not_there(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    datasets.DatasetDict({"one": table(4), "two": table(4)}).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=message):
        parts_of(tmp_path, **settings)


def test_an_empty_split(tmp_path: Path) -> None:
    table(4).to_parquet(tmp_path / "train.parquet")
    table(4).select([]).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"cannot be read as a data set of images: ValueError: .*test.* no data"):
        parts_of(tmp_path)


def test_a_local_imagefolder_with_splits_and_a_broken_file(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/a.png", "train/b.png", "validation/c.png"])
    (tmp_path / "train" / "b.png").write_bytes(b"words")
    parts = parts_of(tmp_path)
    assert (ids(parts.train), ids(parts.heldout)) == (["train/00000000", "train/00000001"], ["validation/00000000"])
    assert np.array_equal(to_uint8(parts.heldout.load(0), 3), np.asarray(noise_image(2)))
    with pytest.raises(BrokenImage, match="cannot use the image train/00000001: it is none of"):
        parts.train.load(1)
    (tmp_path / "train" / "a.png").unlink()
    with pytest.raises(BrokenImage, match="cannot use the image train/00000000: there is no such file"):
        parts.train.load(0)


def test_files_that_datasets_drops_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/a.png", "train/b.png", "validation/c.png"])
    assert not parts_of(tmp_path).left_out
    for name in ("train/phone.CR2", "validation/scene.exr2"):
        (tmp_path / name).write_bytes(b"")
    assert parts_of(tmp_path).left_out == {"not read as images: .cr2 (1), .exr2 (1)": 2}


def test_images_in_an_archive_are_not_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"])
    write_images(tmp_path, ["beside.png"])
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(tmp_path / "images" / name, name)
    shutil.rmtree(tmp_path / "images")
    parts = parts_of(tmp_path, heldout_share=0.5)
    assert len(parts.train) + len(parts.heldout) == 3
    assert not parts.left_out


def test_broken_and_missing_images_are_met_one_at_a_time(tmp_path: Path) -> None:
    cut = stored(1)
    cut["bytes"] = cut["bytes"][:80]
    features = datasets.Features({"image": datasets.Image()})
    rows = {"image": [stored(0), cut, None]}
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features), "test": table(1)})
    saved["test"] = saved["test"].rename_column("picture", "image")
    saved.save_to_disk(tmp_path / "saved")
    train = parts_of(tmp_path / "saved").train
    train.load(0)
    for index, reason in ((1, "image train/00000001: "), (2, "the row holds no image")):
        with pytest.raises(BrokenImage, match=reason):
            train.load(index)


def two_image_columns() -> datasets.Dataset:
    return table(6).add_column("mask", [stored(100 + row) for row in range(6)]).cast_column("mask", datasets.Image())


def test_the_image_column_may_be_named(tmp_path: Path) -> None:
    two_image_columns().save_to_disk(tmp_path)
    part = parts_of(tmp_path, image_column="mask", heldout_share=0.5).train
    seed = 100 + int(part.sample_id(0).split("/")[1])
    assert np.array_equal(to_uint8(part.load(0), 3), np.asarray(noise_image(seed)))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            None,
            r"2 columns hold images: name one as data\.image_column \(picture, mask\); its columns are label \(Val",
        ),
        (
            "label",
            r"data\.image_column label does not hold images; its columns are label \(Value int64\), picture \(Im",
        ),
        ("nose", r"data\.image_column nose is no column; its columns are label"),
    ],
)
def test_a_column_that_cannot_be_meant(column: str | None, message: str, tmp_path: Path) -> None:
    two_image_columns().save_to_disk(tmp_path)
    with pytest.raises(DataError, match=message):
        parts_of(tmp_path, image_column=column)


def test_a_data_set_without_images(tmp_path: Path) -> None:
    table(3).remove_columns("picture").save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"no columns hold images; its columns are label \(Value int64\)$"):
        parts_of(tmp_path)


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
@pytest.mark.parametrize("source", ["hub", "stream"])
def test_a_column_of_bytes_holds_images_where_it_is_named(source: str, kind: str, tmp_path: Path) -> None:
    features = datasets.Features({"raw": datasets.Value(kind)})
    files = {"raw": [stored(row)["bytes"] for row in range(12)]}
    datasets.Dataset.from_dict(files, features=features).to_parquet(tmp_path / "rows.parquet")
    settings = SOURCES[source](path=str(tmp_path / "rows.parquet"), heldout_share=0.4)
    with pytest.raises(DataError, match=r"no columns hold images: name one as data\.image_column \(raw\); its columns"):
        settings.open()
    parts = settings.model_copy(update={"image_column": "raw"}).open()
    assert len(parts.train) + len(parts.heldout) == 12
    for part in (parts.train, parts.heldout):
        seed = int(part.sample_id(0).split("/")[1])
        assert np.array_equal(to_uint8(part.load(0), 3), np.asarray(noise_image(seed)))


def test_paths_that_hold_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match=r"must be a folder or end in \.parquet or \.arrow or \.tar, got a\.csv"):
        parts_of(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"gone/away does not exist .* and is not a hub name \(OWNER/NAME\)"):
        parts_of(tmp_path / "gone" / "away")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really PAR1")
    for name in ("empty", "bad.parquet"):
        with pytest.raises(DataError, match=f"{name} cannot be read as a data set of images: ") as caught:
            parts_of(tmp_path / name)
        assert "\n" not in str(caught.value)


def write_configurations(folder: Path) -> Path:
    for number, name in enumerate(("large", "small")):
        (folder / name).mkdir(parents=True)
        table(4, first=10 * number).to_parquet(folder / name / "train.parquet")
    listing = "".join(f"- config_name: {name}\n  data_files: {name}/train.parquet\n" for name in ("large", "small"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{listing}---\n")
    return folder


@pytest.mark.parametrize(("name", "first"), [("large", 0), ("small", 10)])
def test_a_configuration_is_named_behind_a_colon(name: str, first: int, tmp_path: Path) -> None:
    parts = parts_of(Path(f"{write_configurations(tmp_path)}:{name}"), heldout_share=0.5)
    row = int(parts.train.sample_id(0).split("/")[1])
    assert np.array_equal(to_uint8(parts.train.load(0), 3), np.asarray(noise_image(first + row)))


def test_configurations_are_listed_where_one_has_to_be_named(tmp_path: Path) -> None:
    write_configurations(tmp_path)
    with pytest.raises(
        DataError, match=r"has several configurations, name one \(.*:large\): they are large, small"
    ) as caught:
        parts_of(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r":huge: huge is not among its configurations: large, small"):
        parts_of(Path(f"{tmp_path}:huge"))


def test_the_size_of_an_image_is_known_without_decoding_it(tmp_path: Path) -> None:
    cut = stored(1)
    cut["bytes"] = cut["bytes"][:80]
    features = datasets.Features({"image": datasets.Image()})
    rows = {"image": [stored(0), cut, None]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path)
    parts = parts_of(tmp_path, heldout_share=0.5)
    sizes = {}
    for part in (parts.train, parts.heldout):
        for index in range(len(part)):
            try:
                sizes[part.sample_id(index)] = part.size(index)  # type: ignore[attr-defined]  # these sources know sizes
            except BrokenImage as error:
                sizes[part.sample_id(index)] = error.reason
    assert sizes == {"train/00000000": (16, 20), "train/00000001": (16, 20), "train/00000002": "the row holds no image"}


def test_a_hub_name_without_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"data.path nobody/nothing does not exist here, and could not be loaded"
    ) as caught:
        HubConfig(path="nobody/nothing").open()
    assert "\n" not in str(caught.value)


def test_bytes_of_rows_are_known_in_every_format_and_order(tmp_path: Path) -> None:
    sizes = [len(stored(row)["bytes"]) for row in range(12)]
    bare = datasets.Dataset.from_dict({"picture": [stored(row)["bytes"] for row in range(12)]})
    with_a_gap = datasets.Dataset.from_dict(
        {"picture": [*[stored(row) for row in range(11)], None]},
        features=datasets.Features({"picture": datasets.Image()}),
    )
    shuffled = table(12).select([3, 1, 2, 0, *range(4, 12)])
    cases = {
        "table": (table(12), sizes),
        "bytes": (bare, sizes),
        "gap": (with_a_gap, [*sizes[:11], 0]),
        "order": (shuffled, [sizes[row] for row in (3, 1, 2, 0, *range(4, 12))]),
    }
    for name, (dataset, expected) in cases.items():
        images, column = datasets_library.image_column(dataset, "picture", name)
        part = hub.HubImages(images, column, "train", range(12))
        assert [size for _, size in part.stored()] == expected, name
        assert len(part.stored_bytes(0)) == expected[0]
