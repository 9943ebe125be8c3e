import json
from pathlib import Path

import pytest
from PIL import Image

from latent_ae.data import FolderConfig, SkippedImages, skipped


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_image_is_written_once_also_after_resuming(tmp_path: Path) -> None:
    path = tmp_path / "run" / "skipped.jsonl"
    ledger = SkippedImages(path, total=100, max_share=0.5)
    ledger.add([])
    assert not path.exists()
    ledger.add([("a", "cut"), ("b", "empty"), ("a", "cut")])
    ledger.add([("b", "empty")])
    resumed = SkippedImages(path, total=100, max_share=0.5)
    assert len(resumed) == 2
    resumed.add([("a", "cut"), ("c", "a name with ü and \udcff")])
    assert [line["id"] for line in lines(path)] == ["a", "b", "c"]
    assert lines(path)[2] == {"id": "c", "reason": "a name with ü and \udcff"}


def test_ranks_share_a_file_and_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    one, two = (SkippedImages(path, total=4, max_share=0.5) for _ in range(2))
    one.add([("a", "cut"), ("b", "cut")])
    two.add([("b", "cut"), ("c", "cut")])
    assert [line["id"] for line in lines(path)] == ["a", "b", "c"]
    assert one.error() is not None
    assert len(one) == len(two) == 3


def test_a_line_cut_short_by_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    path.write_text('{"id": "a", "reason": "cut"}\n{"id": "b", "rea')
    ledger = SkippedImages(path, total=10, max_share=0.5)
    assert len(ledger) == 1
    ledger.add([("b", "cut")])
    assert len(SkippedImages(path, total=10, max_share=0.5)) == 2
    assert path.read_text().endswith('\n{"id": "b", "reason": "cut"}\n')


def test_a_look_reads_what_was_appended_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "skipped.jsonl"
    one, two = (SkippedImages(path, total=100, max_share=0.5) for _ in range(2))
    one.add([(str(number), "cut") for number in range(20)])
    assert two.error() is None
    assert len(two) == 20
    parsed: list[bytes] = []
    monkeypatch.setattr(skipped.json, "loads", lambda line, own=json.loads: (parsed.append(line), own(line))[1])
    for _ in range(3):
        two.error()
    assert parsed == []
    one.add([("new", "cut")])
    parsed.clear()
    two.error()
    assert len(two) == 21
    assert parsed == [b'{"id": "new", "reason": "cut"}']


def test_a_line_that_another_process_has_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    ledger = SkippedImages(path, total=100, max_share=0.5)
    whole = b'{"id": "a", "reason": "cut"}\n{"id": "b", "reason": "cut"}\n'
    for end in (10, 40, len(whole)):
        path.write_bytes(whole[:end])
        ledger.error()
    assert len(ledger) == 2


def test_the_error_comes_above_the_share_and_says_all(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    ledger = SkippedImages(path, total=200, max_share=0.01)
    ledger.add([("a", "cut"), ("b", "empty"), ("d", "cut")])
    assert ledger.error() is None
    ledger.add([("c", "words")])
    error = ledger.error()
    assert error is not None
    assert "\n" not in error
    for part in ("4 of 200", "2.00%", "data.max_bad_share 0.01", str(path), "a (cut), b (empty), d (cut), c (words)"):
        assert part in error


def test_without_a_file_the_ledger_stays_in_memory() -> None:
    ledger = SkippedImages(None, total=10, max_share=0)
    assert ledger.error() is None
    ledger.add([(str(number), "cut") for number in range(9)])
    error = ledger.error()
    assert error is not None
    assert "0 (cut), 1 (cut), 2 (cut), 3 (cut), 4 (cut)" in error
    assert "5 (cut)" not in error


@pytest.mark.parametrize(
    ("total", "share", "allowed"),
    [
        (9, 0.01, 0),
        (10, 0.01, 1),
        (55, 0.01, 3),
        (299, 0.01, 3),
        (400, 0.01, 4),
        (55, 0.0, 0),
        (4, 0.5, 2),
        (1, 0.01, 0),
    ],
)
def test_a_small_data_set_may_have_a_few_bad_images_and_never_all(total: int, share: float, allowed: int) -> None:
    ledger = SkippedImages(None, total=total, max_share=share)
    ledger.add([(str(number), "cut") for number in range(allowed)])
    assert ledger.error() is None
    ledger.add([("more", "cut")])
    assert ledger.error() is not None


def test_images_that_are_gone_or_repaired_leave_the_ledger(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in range(20):
        Image.new("L", (16, 16)).save(images / f"{name}.png")
    source = FolderConfig(path=str(images), heldout_share=0.3).open().train
    gone, repaired, bad, *_ = [source.sample_id(index) for index in range(len(source))]
    (images / gone).unlink()
    (images / bad).write_bytes(b"words")
    ledger = SkippedImages(tmp_path / "skipped.jsonl", total=20, max_share=0.5)
    ledger.add([("elsewhere.png", "cut"), (gone, "cut"), (repaired, "cut"), (bad, "words")])
    present = FolderConfig(path=str(images), heldout_share=0.3).open().train
    ledger.drop_mended(present)
    assert ledger.ids() == {bad}
    assert [line["id"] for line in lines(tmp_path / "skipped.jsonl")] == [bad]
    ledger.add([("new.png", "cut")])
    assert SkippedImages(tmp_path / "skipped.jsonl", total=20, max_share=0.5).ids() == {bad, "new.png"}
