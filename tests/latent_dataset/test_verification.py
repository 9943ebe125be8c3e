"""Damage is found, and what cannot be looked at is said."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from latent_ae.latent_dataset import LatentDatasetError, verify
from latent_ae.latent_dataset.index import write_index
from latent_ae.latent_dataset.manifest import read_manifest, with_checksum
from latent_ae.latent_dataset.shard import read_record, write_shard
from latent_ae.latent_dataset.statistics import sums_of
from latent_ae.latent_dataset.verification import allowed_error
from tests.data.images import noise_image
from tests.latent_dataset.conftest import NAMES
from tests.latent_dataset.made import make, settings


def test_a_whole_folder_is_whole(latents: Path) -> None:
    found = verify(latents, count=5)
    assert (found.shards, found.rows, found.encoded_again) == (3, len(NAMES), 5)
    assert (found.problems, found.notes) == ([], [])
    assert found.largest_error < 1e-3
    assert re.fullmatch(r"3 shards, 9 rows, 5 images encoded again \(largest error .*\): whole", str(found))


def test_codes_are_encoded_again_too(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "vq", tmp_path / "codes", path=pictures, flips=True))
    found = verify(tmp_path / "codes", count=4)
    assert (found.problems, found.encoded_again, found.largest_error) == ([], 4, 0)


def test_of_few_codes_one_may_be_another(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "vq", tmp_path / "codes", path=pictures))
    manifest = read_manifest(tmp_path / "codes")
    assert allowed_error(manifest, "4x4") == 1 / 16
    assert allowed_error(manifest, "64x64") == pytest.approx(0.01)


def test_every_shard_is_counted(latents: Path) -> None:
    (latents / "shards" / "00001.json").unlink()
    totals: list[int] = []
    verify(latents, count=0, on_shard=totals.append)
    assert totals == [3, 3, 3]


def test_the_index_is_read_in_pieces(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is found does not depend on where they end."""
    monkeypatch.setattr("latent_ae.latent_dataset.verification._ROWS_AT_ONCE", 2)
    monkeypatch.setattr(pq, "read_table", None)
    found = verify(latents, count=4)
    assert (found.problems, found.rows, found.encoded_again) == ([], len(NAMES), 4)


def test_a_damaged_shard_is_named(latents: Path) -> None:
    path = latents / "shards" / "00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert verify(latents, count=0).problems == [f"{path} does not match its sha256: it was damaged or changed"]


def test_a_shard_or_record_that_is_gone_is_named(latents: Path) -> None:
    (latents / "shards" / "00000.safetensors").unlink()
    (latents / "shards" / "00002.json").unlink()
    problems = verify(latents, count=0).problems
    assert problems[0] == f"{latents}/shards/00000.safetensors cannot be read: No such file or directory"
    assert "00002.json cannot be read" in problems[1]


def test_an_index_that_says_something_else_is_named(latents: Path) -> None:
    table = pq.read_table(latents / "index.parquet")
    pq.write_table(table.slice(1), latents / "index.parquet")
    file = latents / "index.parquet"
    assert verify(latents, count=0).problems == [f"{file} has 8 rows, the shards have 9"]
    pq.write_table(table.take([1, 0, *range(2, 9)]), latents / "index.parquet")
    assert verify(latents, count=0).problems == [f"{file}: 2 rows are not what the shards' records say, first row 0"]
    (latents / "shards" / "00002.json").rename(latents / "shards" / "00002")
    found = verify(latents, count=9)
    assert [problem.removeprefix(f"{latents}/").partition(" ")[0] for problem in found.problems] == [
        "shards/00002.json",
        "index.parquet",  # but not where its rows belong
    ]
    assert found.encoded_again == 9
    (latents / "shards" / "00002").rename(latents / "shards" / "00002.json")
    (latents / "index.parquet").write_bytes(b"none")
    assert verify(latents).problems[0].startswith(f"{file} cannot be read: ")


def test_statistics_that_say_something_else_are_named(latents: Path) -> None:
    path = latents / "stats.json"
    stats = json.loads(path.read_text())
    stats["latents"]["scaling_factor"] = 0.18215
    path.write_text(json.dumps(stats))
    assert verify(latents, count=0).problems == [f"{path} does not match its checksum: it was damaged or changed"]
    path.write_text(json.dumps(with_checksum({key: value for key, value in stats.items() if key != "checksum"})))
    assert verify(latents, count=0).problems == [f"{path} is not what the shards' records add up to"]


def rewrite(folder: Path, number: int, factor: float) -> None:
    """A shard whose latents are others, and whose sha256 is right."""
    manifest = read_manifest(folder)
    record = vars(read_record(folder, manifest, number))
    tensors = load_file(folder / "shards" / f"{number:05d}.safetensors")
    tensors = {name: tensor * factor for name, tensor in tensors.items()}
    write_shard(folder, manifest, number, tensors, {k: v for k, v in record.items() if k not in ("sha256", "size")})


def test_latents_of_other_images_are_found_by_encoding_again(latents: Path) -> None:
    rewrite(latents, 0, 1.05)
    problems = verify(latents, count=9).problems
    assert problems[0] == f"{latents}/shards/00000.safetensors has other statistics than its record says"
    assert sum("its stored latents are not those of its image (error 0.0" in problem for problem in problems) == 4


def test_values_that_are_not_finite_are_found(latents: Path) -> None:
    rewrite(latents, 0, float("nan"))
    assert "that are not finite" in verify(latents, count=0).problems[0]


def test_latents_of_several_sizes_are_whole_in_whatever_order_these_come(models: Path, tmp_path: Path) -> None:
    """Sums are rounded: another order of the sizes gives another last bit."""
    for seed, (width, height) in enumerate([(64, 64), (32, 32), (48, 32), (16, 80), (100, 36)] * 3):
        file = tmp_path / "pictures" / f"{seed:02}.png"
        file.parent.mkdir(exist_ok=True)
        noise_image(seed, width, height).save(file)
    folder = tmp_path / "latents"
    manifest = make(settings(models / "kl", folder, path=tmp_path / "pictures", shard_images=64))
    assert verify(folder, count=0).problems == []
    record = vars(read_record(folder, manifest, 0))
    tensors = load_file(folder / "shards" / "00000.safetensors")
    came = list(dict.fromkeys(row["grid"] for row in record["rows"]))
    sums = sums_of(tensors, 0, None, order=came)
    assert sums is not None
    assert sums.to_json() != record["statistics"]
    changed = {**record, "statistics": sums.to_json()}  # as earlier versions wrote it
    write_shard(
        folder, manifest, 0, tensors, {key: value for key, value in changed.items() if key not in ("sha256", "size")}
    )
    write_index(folder)
    assert verify(folder, count=0).problems == []


def test_an_image_that_changed_is_named(latents: Path, pictures: Path) -> None:
    noise_image(99).save(pictures / "cat" / "a.png")
    assert verify(latents, count=9).problems == ["cat/a.png: the image has changed since it was encoded"]


def test_images_that_are_gone_are_a_note(latents: Path, pictures: Path) -> None:
    pictures.rename(pictures.with_name("elsewhere"))
    found = verify(latents)
    assert found.problems == []
    assert re.fullmatch("no image was encoded again: data.path .* does not exist .*", found.notes[0])


def test_a_model_with_another_encoder_is_refused(latents: Path, models: Path) -> None:
    with pytest.raises(
        LatentDatasetError, match=r"the encoder of .*other is .*: give the model that made these latents"
    ):
        verify(latents, model=str(models / "other"))
    assert verify(latents, model=str(models / "kl")).problems == []


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LatentDatasetError, match=r"is not a data set of latents: it has no manifest.json"):
        verify(tmp_path)
