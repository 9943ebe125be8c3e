import itertools
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from latent_ae.data import DataError, ImageSource, StreamConfig
from latent_ae.data.source import hash_place
from latent_ae.data.sources.shards import Shards, StoredImage, StreamParts
from latent_ae.io.image import BrokenImage, to_uint8
from tests.data.images import noise_image, write_images
from tests.data.written import encoded, table, write_parquets, write_tar, write_tars


def opened(path: Path, **changes: Any) -> StreamParts:
    return StreamConfig(path=str(path), **({"heldout_share": 0.2, "collected_images": 100} | changes)).open()


def rows(shards: Shards) -> list[StoredImage]:
    return [image for shard in range(len(shards)) for _, image in shards.images(shard)]


def ids(part: ImageSource) -> list[str]:
    return [part.sample_id(index) for index in range(len(part))]


def shows(image: StoredImage, seed: int) -> bool:
    return np.array_equal(to_uint8(image.load(), 3), np.asarray(noise_image(seed)))


SIZES = [7, 3, 40]
TAR_IDS = [f"train-{shard}.tar/{row:04d}" for shard, size in enumerate(SIZES) for row in range(size)]
PARQUET_IDS = [f"train-{shard}.parquet/{row:08d}" for shard, size in enumerate(SIZES) for row in range(size)]
SEEDS = [100 * shard + row for shard, size in enumerate(SIZES) for row in range(size)]


def write_arrows(folder: Path, sizes: list[int]) -> Path:
    for shard, size in enumerate(sizes):
        rows = table([{"bytes": encoded(100 * shard + row), "path": None} for row in range(size)])
        rows.save_to_disk(folder.parent / "saved" / str(shard))
        folder.mkdir(exist_ok=True)
        written = next((folder.parent / "saved" / str(shard)).glob("*.arrow"))
        written.rename(folder / f"train-{shard}.arrow")
    return folder


FORMATS = [
    (write_tars, TAR_IDS),
    (write_parquets, PARQUET_IDS),
    (write_arrows, [name.replace("parquet", "arrow") for name in PARQUET_IDS]),
]


# ------------------------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize(("write", "expected"), FORMATS, ids=["tar", "parquet", "arrow"])
def test_every_row_of_every_format(
    write: Callable[[Path, list[int]], Path], expected: list[str], tmp_path: Path
) -> None:
    parts = opened(write(tmp_path / "data", SIZES))
    kept = [(name, seed) for name, seed in zip(expected, SEEDS, strict=True) if hash_place(name) >= 0.2]
    assert [image.sample_id for image in rows(parts.stream)] == [name for name, _ in kept]
    assert all(shows(image, seed) for image, (_, seed) in zip(rows(parts.stream), kept, strict=True))
    assert ids(parts.heldout) == sorted(name for name in expected if hash_place(name) < 0.2)
    assert ids(parts.train) == sorted(name for name, _ in kept)
    assert 0 < len(parts.heldout) < len(expected)


@pytest.mark.parametrize(("write", "expected"), FORMATS, ids=["tar", "parquet", "arrow"])
def test_a_shard_can_be_read_from_any_row(
    write: Callable[[Path, list[int]], Path], expected: list[str], tmp_path: Path
) -> None:
    shards = opened(write(tmp_path / "data", SIZES), heldout_share=1e-9).stream
    for shard, first in itertools.product(range(3), (0, 1, 2, 7, 16, 17, 39, 40, 99)):
        names = [name for name in expected if name.startswith(f"train-{shard}.")]
        assert [(row, image.sample_id) for row, image in shards.images(shard, first)] == list(enumerate(names))[first:]


def test_a_single_file_and_a_moved_folder_give_the_same_ids(tmp_path: Path) -> None:
    folder = write_tars(tmp_path / "here", [3])
    expected = [f"train-0.tar/{row:04d}" for row in range(3)]
    alone = opened(folder / "train-0.tar", heldout_share=1e-9).stream
    assert [image.sample_id for image in rows(alone)] == expected
    identity = opened(folder).stream.identity
    (tmp_path / "link").symlink_to(folder)
    assert opened(tmp_path / "link").stream.identity == identity
    moved = opened(folder.rename(tmp_path / "there"), heldout_share=1e-9).stream
    assert [image.sample_id for image in rows(moved)] == expected
    assert moved.identity == identity
    write_tars(tmp_path / "there", [3, 3])
    assert opened(tmp_path / "there").stream.identity != identity


def test_image_files_are_named_by_their_path(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/a.png", "train/b.png", "test/c.png"])
    parts = opened(tmp_path)
    assert (ids(parts.train), ids(parts.heldout)) == (["train/a.png", "train/b.png"], ["test/c.png"])
    assert np.array_equal(to_uint8(parts.heldout.load(0), 3), np.asarray(noise_image(2)))


def test_an_image_that_is_an_address_is_fetched(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    image = StoredImage("a", {"bytes": None, "path": (tmp_path / "a.png").as_uri()})
    assert shows(image, 0)
    with pytest.raises(BrokenImage, match="cannot use the image b: FileNotFoundError: "):
        StoredImage("b", {"bytes": None, "path": (tmp_path / "b.png").as_uri()}).load()


def test_broken_and_missing_images_are_met_one_at_a_time(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [("a", encoded(0)), ("b", b"words"), ("c", encoded(2)[:60])])
    (tmp_path / "tables").mkdir()
    table([{"bytes": encoded(0), "path": None}, None]).to_parquet(tmp_path / "tables" / "train.parquet")
    tar = rows(opened(tmp_path / "train.tar", heldout_share=1e-9).stream)
    parquet = rows(opened(tmp_path / "tables", heldout_share=1e-9).stream)
    assert shows(tar[0], 0)
    assert shows(parquet[0], 0)
    for image, reason in (
        (tar[1], "image train.tar/b: it is none of"),
        (tar[2], "train.tar/c"),
        (parquet[1], "no image"),
    ):
        with pytest.raises(BrokenImage, match=reason):
            image.load()


def test_a_named_split_is_held_out_whole(tmp_path: Path) -> None:
    write_tars(tmp_path / "train", [5])
    write_tar(tmp_path / "validation" / "x.tar", [("a", encoded(0)), ("b", encoded(1))])
    parts = opened(tmp_path)
    assert ids(parts.heldout) == ["validation/x.tar/a", "validation/x.tar/b"]
    assert ids(parts.train) == [f"train/train-0.tar/{row:04d}" for row in range(5)]


def test_collected_images_come_from_all_shards_and_survive_pickling(tmp_path: Path) -> None:
    parts = opened(write_tars(tmp_path, [30] * 4), collected_images=12)
    found = ids(parts.train)
    assert len(found) == 12
    assert {name.split("/")[0] for name in found} == {f"train-{shard}.tar" for shard in range(4)}
    copy = pickle.loads(pickle.dumps(parts)).train
    assert ids(copy) == found
    assert np.array_equal(to_uint8(copy.load(5), 3), to_uint8(parts.train.load(5), 3))
    assert len(opened(tmp_path, collected_images=1000).train) == sum(
        hash_place(image.sample_id) >= 0.2 for image in rows(parts.stream)
    )


# ---------------------------------------------------------------------------------------------------------- errors


def cuts(path: Path) -> list[tuple[int, int]]:
    """Places at which to cut a tar of 4 samples: within the last image, a header, between two files, at the end."""
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    return [
        last.offset_data + 300,
        last.offset_data,
        last.offset + 100,
        last.offset,
        path.stat().st_size // 512 * 512 - 1,
    ]


@pytest.mark.parametrize("case", range(4))
def test_a_truncated_tar_is_one_clear_line(case: int, tmp_path: Path) -> None:
    path = write_tars(tmp_path, [4, 4]) / "train-1.tar"
    cut = cuts(path)[case]
    path.write_bytes(path.read_bytes()[:cut])
    shards = opened(tmp_path).stream
    with pytest.raises(DataError, match=rf"shard train-1.tar is cut short: its {cut} bytes do not end as") as caught:
        rows(shards)
    assert "\n" not in str(caught.value)


def test_a_truncated_compressed_tar_is_one_clear_line(tmp_path: Path) -> None:
    write_tars(tmp_path, [4])
    with tarfile.open(tmp_path / "noise.tar", "w:gz") as archive:
        archive.add(tmp_path / "train-0.tar", "x.png")
    path = tmp_path / "noise.tar"
    path.write_bytes(path.read_bytes()[:-2000])
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(DataError, match=r"data\.path .*noise\.tar") as caught:
        rows(opened(path).stream)
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_is_one_clear_line(tmp_path: Path) -> None:
    path = write_parquets(tmp_path, [20, 20]) / "train-1.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    shards = opened(tmp_path).stream
    with pytest.raises(DataError, match=r"the shard train-1.parquet cannot be read beyond row \d+: ") as caught:
        rows(shards)
    assert "\n" not in str(caught.value)


def test_data_without_an_image_column_lists_its_columns(tmp_path: Path) -> None:
    table([None]).remove_columns("picture").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"no columns hold images; its columns are label \(Value int64\)"):
        opened(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.jsonl").write_text('{"size": 1, "name": "a"}\n')
    with pytest.raises(DataError, match=r"no columns hold images; its columns are size .*, name "):
        opened(tmp_path / "text")
    write_tar(tmp_path / "tars" / "train.tar", [])
    with tarfile.open(tmp_path / "tars" / "train.tar", "w") as archive:
        archive.add(tmp_path / "text" / "train.jsonl", "a.txt")
    with pytest.raises(DataError, match=r"train.tar begins with files that end in \.txt, expected images"):
        opened(tmp_path / "tars")


def test_nothing_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty cannot be read as a data set of images: EmptyDatasetError"):
        opened(tmp_path / "empty")
    write_tar(tmp_path / "none" / "train.tar", [])
    with pytest.raises(DataError, match=r"train\.tar begins with no files, expected images"):
        opened(tmp_path / "none")
    table([{"bytes": encoded(0), "path": None}]).select([]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="split train holds no images to train on: its 1 shards are empty or all held"):
        opened(tmp_path / "train.parquet")
    table([{"bytes": encoded(0), "path": None}]).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"written by save_to_disk, which needs no stream: take data\.source hub"):
        opened(tmp_path / "saved")


def test_nothing_held_out_is_said_when_it_is_asked_for(tmp_path: Path) -> None:
    parts = opened(write_tars(tmp_path, [3]), heldout_share=1e-9)
    with pytest.raises(DataError, match=r"split train holds no image for this part: change data\.heldout_share"):
        len(parts.heldout)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
