"""The layouts in which people keep images, in every source that reads them: all that is found is accounted for."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from latent_ae.data import SOURCES, DataError, HubConfig, SourceParts, StreamParts
from latent_ae.data.source import ColumnSource, hash_place

PNG, JPEG = (io.BytesIO(), io.BytesIO())
Image.new("RGB", (8, 8), (200, 100, 50)).save(PNG, "PNG")
Image.new("RGB", (8, 8), (200, 100, 50)).save(JPEG, "JPEG")
SHARE = 0.4


@pytest.fixture(scope="module", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path_factory.mktemp("downloads"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # else it copies nothing from an address
        yield


def files(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG.getvalue() if name.endswith("jpg") else PNG.getvalue())


def numbered(pattern: str, count: int) -> list[str]:
    return [pattern.format(number) for number in range(count)]


def of_files(*names: str, metadata: Mapping[str, str] | None = None) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        files(root, list(names))
        for name, content in (metadata or {}).items():
            (root / name).write_text(content)
        return root

    return write


def tar(names: list[str]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        with tarfile.open(root / "train.tar", "w") as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                content = b"a caption" if name.endswith("txt") else PNG.getvalue()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return root

    return write


def parquet(rows: dict[str, list[Any]], types: pa.Schema | None = None) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        pq.write_table(pa.table(rows, types), root / "rows.parquet")
        return root

    return write


def parquet_of_datasets(root: Path) -> Path:
    rows = {"image": [{"bytes": PNG.getvalue(), "path": None}] * 6}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "rows.parquet")
    return root


def listing(root: Path) -> Path:
    files(root, [*numbered("a/{}.png", 6), "b/x.png"])
    (root / "train.txt").write_text("\n".join([*numbered("a/{}.png", 6), "", "a/0.png"]))
    return root / "train.txt"


def table(root: Path) -> Path:
    files(root, numbered("a/{}.png", 6))
    with (root / "all.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "caption", "split"])
        rows.writerows(
            [f"a/{n}.png", "cat" if n % 2 else "dog", f"number {n}", "val" if n < 2 else "train"] for n in range(6)
        )
    return root / "all.csv"


def memory(names: list[str]) -> Callable[[Path], str]:
    def write(root: Path) -> str:
        for name in names:
            fsspec.filesystem("memory").pipe(f"{root}/{name}", PNG.getvalue())
        return f"memory:/{root}"

    return write


HASHED = None
"""the split of the images is by their hash"""
Counts = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    write: Callable[[Path], Path | str]
    found: int
    """images, or samples and rows that may hold one, and files that are neither these nor captions or metadata"""
    counts: Mapping[str, Counts | int]
    """train, held out and left out; a number alone is what is left out, where a share is held out"""
    settings: Mapping[str, object] = field(default_factory=dict)
    reason: str = ""


def everywhere(counts: Counts | int) -> dict[str, Counts | int]:
    return dict.fromkeys(("folder", "hub", "stream"), counts)


def tables(counts: Counts | int) -> dict[str, Counts | int]:
    return {"hub": counts, "stream": counts}


SPLIT = [*numbered("train/{}.png", 5), *numbered("val/{}.png", 3), *numbered("test/{}.png", 2)]
CLASSES = [*numbered("train/cat/{}.png", 3), "train/dog/0.png", "val/cat/0.png", "val/dog/0.png"]
WORDS = [*numbered("train_{}.png", 8), *numbered("crash test {}.png", 4), *numbered("photo{}.png", 26)]
HALF = {"metadata.jsonl": "".join(json.dumps({"file_name": f"{n}.png", "text": "x"}) + "\n" for n in range(6))}
METADATA_OF_SPLITS = {
    "train/metadata.jsonl": HALF["metadata.jsonl"],
    "val/metadata.jsonl": '{"file_name": "0.png", "text": "x"}',
}
STRUCT = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
IMAGE = {"bytes": PNG.getvalue(), "path": "x.png"}

LAYOUTS = {
    "flat": Layout(of_files(*numbered("{}.png", 6)), 6, everywhere(0)),
    "classes": Layout(of_files(*numbered("cat/{}.png", 3), *numbered("dog/{}.png", 3)), 6, everywhere(0)),
    "nested": Layout(of_files(*numbered("a/b/{}.png", 3), *numbered("a/c/d/{}.jpg", 3)), 6, everywhere(0)),
    "splits": Layout(of_files(*SPLIT), 10, everywhere((5, 3, 2)), reason="2 in the split test, which is not used"),
    "splits, test": Layout(
        of_files(*SPLIT), 10, everywhere((5, 2, 3)), {"heldout_split": "test"}, "3 in the split val"
    ),
    "splits with classes": Layout(of_files(*CLASSES), 6, everywhere((4, 2, 0))),
    "valid": Layout(of_files("train/a.png", "valid/b.png"), 2, everywhere((1, 1, 0))),
    "validation": Layout(of_files("train/a.png", "validation/b.png"), 2, everywhere((1, 1, 0))),
    "train and test": Layout(of_files("train/a.png", "test/b.png"), 2, everywhere((1, 1, 0))),
    "train alone": Layout(of_files(*numbered("train/{}.png", 6)), 6, everywhere(0)),
    "test alone": Layout(of_files(*numbered("test/{}.png", 3)), 3, {"folder": (0, 3, 0)}),
    "splits below a folder": Layout(of_files("images/train/a.png", "images/val/b.png"), 2, everywhere((1, 1, 0))),
    "loose images": Layout(of_files(*SPLIT, "x.png"), 11, everywhere((5, 3, 3)), reason="1 outside the folders of the"),
    "train and others": Layout(
        of_files(*numbered("train/{}.png", 6), *numbered("more/{}.png", 2)),
        8,
        {"folder": 0, **tables(2)},
        reason="2 outside the folders of the splits",
    ),
    "words in names": Layout(of_files(*WORDS), 38, everywhere(0)),
    "words in all names": Layout(
        of_files("train_a.png", "train_b.png", "test_a.png"),
        3,
        {"folder": (1, 2, 0), "hub": (2, 1, 0), "stream": (2, 1, 0)},
        {"heldout_share": 0.34},
    ),
    "dots in names": Layout(of_files(*numbered("v1.{}.final.png", 6)), 6, everywhere(0)),
    "metadata": Layout(of_files(*numbered("{}.png", 6), metadata=HALF), 6, everywhere(0)),
    "metadata of a part": Layout(
        of_files(*numbered("{}.png", 10), metadata=HALF),
        10,
        {"folder": 0, **tables(4)},
        reason="4 without a row in the metadata",
    ),
    "metadata of some splits": Layout(
        of_files(*numbered("train/{}.png", 8), "val/0.png", "test/0.png", metadata=METADATA_OF_SPLITS),
        10,
        {"folder": (8, 1, 1), **tables((6, 1, 3))},
    ),
    "other files": Layout(
        of_files(*numbered("{}.png", 6), "a.cr2", "b.xcf", "._0.png", ".cache/x.png"),
        8,
        everywhere(2),
        reason="2 not read as images: .cr2 (1), .xcf (1)",
    ),
    "list": Layout(listing, 7, {"folder": 1}, reason="1 named by more than one line of the list"),
    "table": Layout(table, 6, {"folder": (4, 2, 0)}),
    "pattern": Layout(lambda root: Path(of_files(*SPLIT)(root), "{train,val}/*.png"), 8, everywhere((5, 3, 0))),
    "address": Layout(memory([*SPLIT, ".x.png"]), 10, everywhere((5, 3, 2)), reason="in the split test, which"),
    "tar": Layout(tar(sorted([*numbered("{}.png", 6), *numbered("{}.txt", 6)])), 6, tables(0)),
    "tar of jpg and png": Layout(tar([*numbered("{}.png", 6), *numbered("x{}.jpg", 3)]), 9, tables(0)),
    "tar, dots in names": Layout(tar(numbered("photo.{}.png", 6)), 6, tables(0)),
    "parquet of datasets": Layout(parquet_of_datasets, 6, tables(0)),
    "parquet of structs": Layout(parquet({"image": [IMAGE] * 6}, STRUCT), 6, tables(0)),
    "parquet of bytes": Layout(parquet({"raw": [PNG.getvalue()] * 6}), 6, tables(0), {"image_column": "raw"}),
    "parquet of lists": Layout(parquet({"images": [[IMAGE, IMAGE]] * 6}), 12, tables(0)),
    "split column": Layout(
        parquet({"image": [IMAGE] * 6, "part": ["train"] * 3 + ["dev"] * 2 + ["test"]}),
        6,
        tables((3, 2, 1)),
        {"split_column": "part"},
        reason="1 in the split test",
    ),
}
CASES = [(name, source) for name, layout in LAYOUTS.items() for source in layout.counts]


def ids(parts: SourceParts) -> tuple[list[str], list[str]]:
    if isinstance(parts, StreamParts):
        streamed = [image.sample_id for shard in range(len(parts.stream)) for _, image in parts.stream.images(shard)]
        assert sorted(streamed) == ids(SourceParts(parts.train, parts.heldout))[0]
    train, heldout = ([part.sample_id(index) for index in range(len(part))] for part in (parts.train, parts.heldout))
    return train, heldout


@pytest.mark.parametrize(("name", "source"), CASES, ids=[f"{name}-{source}" for name, source in CASES])
def test_everything_found_is_trained_on_held_out_or_left_out_for_a_reason(
    name: str, source: str, tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    share = {} if "heldout_split" in layout.settings else {"heldout_share": SHARE}
    expected = layout.counts[source]
    parts = SOURCES[source](path=str(layout.write(tmp_path)), **(share | dict(layout.settings))).open()
    train, heldout = ids(parts)
    assert len({*train, *heldout}) == len(train) + len(heldout)
    assert len(train) + len(heldout) + parts.left_out.total() == layout.found, parts.left_out
    if isinstance(expected, int):
        assert parts.left_out.total() == expected
        assert [each for each in (*train, *heldout) if hash_place(each.partition("#")[0]) < SHARE] == heldout
        assert train
    else:
        assert (len(train), len(heldout), parts.left_out.total()) == expected
    if parts.left_out:
        assert layout.reason in str(parts.left_out)
    for part in (parts.train, parts.heldout):
        for index in range(len(part)):
            assert part.load(index).size == (8, 8)


@pytest.mark.parametrize("source", ["hub", "stream"])
def test_a_data_set_of_its_own_is_held_out_and_never_one_that_is_trained_on(source: str, tmp_path: Path) -> None:
    names = ["train", "other"]
    for name in names:
        (tmp_path / name).mkdir()
        parquet({"image": [IMAGE] * 2}, STRUCT)(tmp_path / name)
    train, other = (str(tmp_path / name) for name in names)
    found = ids(SOURCES[source](path=train, heldout_path=other).open())
    split = {"hub": "train", "stream": "rows.parquet"}[source]
    assert found == ([f"{split}/00000000", f"{split}/00000001"], [f"heldout:{split}/0000000{row}" for row in range(2)])
    with pytest.raises(
        DataError, match=r"data\.heldout_path .*rows\.parquet would be trained on too: take it out there"
    ):
        SOURCES[source](path=train, heldout_path=f"{train}/rows.parquet").open()
    (tmp_path / "two").mkdir()
    of_files("train/a.png", "val/b.png")(tmp_path / "two")
    with pytest.raises(DataError, match=r"two has the splits train, validation, expected one split"):
        SOURCES[source](path=train, heldout_path=str(tmp_path / "two")).open()


@pytest.mark.parametrize("source", ["hub", "stream"])
def test_a_sample_of_several_images_needs_the_name_of_one(source: str, tmp_path: Path) -> None:
    tar(["a.jpg", "a.mask.png", "a.txt", "b.jpg", "b.mask.png"])(tmp_path)
    with pytest.raises(
        DataError, match=r"the sample a holds 2 images \(jpg, mask\.png\): name one as data\.image_column"
    ):
        SOURCES[source](path=str(tmp_path)).open()
    parts = SOURCES[source](path=str(tmp_path), image_column="mask.png", heldout_share=0).open()
    assert len(parts.train) == 2
    with pytest.raises(
        DataError, match=r"begins with files that end in .*, expected images of data\.image_column webp"
    ):
        SOURCES[source](path=str(tmp_path), image_column="webp").open()


def test_the_texts_of_a_tar_are_columns(tmp_path: Path) -> None:
    tar(sorted([*numbered("{}.png", 3), "1.txt"]))(tmp_path)
    parts = HubConfig(path=str(tmp_path), heldout_share=0).open()
    assert isinstance(parts.train, ColumnSource)
    captions = parts.train.column("txt")
    assert [captions[index] for index in range(3)] == [None, "a caption", None]
