"""LatentDataset gives what the shards hold, the same whoever asks."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from latent_ae.latent_dataset import LatentDataset, LatentDatasetError
from latent_ae.randomness import torch_generator
from tests.data.images import noise_image
from tests.latent_dataset.conftest import NAMES
from tests.latent_dataset.made import index, make, settings


@pytest.fixture(scope="module")
def square(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of one size: 12 images and their mirror images, in three shards."""
    folder = tmp_path_factory.mktemp("square")
    pictures = folder / "pictures"
    pictures.mkdir()
    for seed in range(12):
        noise_image(seed % 11).save(pictures / f"{seed:02d}.png")  # the last is the first again
    make(settings(models / "kl", folder / "latents", path=pictures, resolution=16, flips=True))
    return folder / "latents"


def test_the_mode_is_the_stored_mean(latents: Path) -> None:
    dataset = LatentDataset(latents, posterior="mode")
    assert len(dataset) == len(NAMES)
    for item, row in zip((dataset[number] for number in range(len(dataset))), index(latents), strict=True):
        mean = load_file(latents / row["shard"])[f"mean.{row['grid']}"][row["row"]]
        assert torch.equal(item["latents"], mean.float())
        assert bytes(item["id"].numpy()).hex() == row["id"]
        assert item["label"].item() == (-1 if row["label"] is None else row["label"])


def test_a_draw_follows_from_seed_epoch_and_number_alone(square: Path) -> None:
    dataset = LatentDataset(square, seed=7)
    dataset.set_epoch(2)
    row = index(square)[5]
    tensors = load_file(square / row["shard"])
    mean, logvar = (tensors[f"{name}.{row['grid']}"][row["row"]].float() for name in ("mean", "logvar"))
    noise = torch.randn(mean.shape, generator=torch_generator(7, "latents", 2, 5))
    assert torch.equal(dataset[5]["latents"], mean + torch.exp(0.5 * logvar) * noise)
    dataset.set_epoch(3)
    assert not torch.equal(dataset[5]["latents"], mean + torch.exp(0.5 * logvar) * noise)
    plain = LatentDataset(square, seed=7, flipped=False)
    plain.set_epoch(3)
    assert torch.equal(plain[2]["latents"], dataset[4]["latents"])


def test_workers_give_what_one_process_gives(square: Path) -> None:
    dataset = LatentDataset(square)
    alone = list(DataLoader(dataset, batch_size=5))
    shared = list(DataLoader(dataset, batch_size=5, num_workers=2))
    assert [batch["latents"].shape for batch in alone] == [(5, 2, 8, 8)] * 4 + [(4, 2, 8, 8)]
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == {"latents", "label", "id"}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_pickled_without_its_open_files(square: Path) -> None:
    dataset = LatentDataset(square)
    closed = pickle.dumps(dataset)
    expected = dataset[3]["latents"]
    assert pickle.dumps(dataset) == closed
    assert torch.equal(pickle.loads(closed)[3]["latents"], expected)


def test_flipped_rows_and_duplicates_can_be_left_out(square: Path) -> None:
    assert len(LatentDataset(square)) == 24
    assert len(LatentDataset(square, flipped=False)) == 12
    distinct = LatentDataset(square, duplicates=False)
    assert len(distinct) == 22
    assert len({row["id"] for row in distinct.table().to_pylist()}) == 11


def test_scaling_is_applied_if_asked_for(square: Path) -> None:
    raw = LatentDataset(square, posterior="mode")[0]["latents"]
    stats = json.loads((square / "stats.json").read_text())["latents"]
    measured = LatentDataset(square, posterior="mode", scaling="measured")
    assert torch.equal(measured[0]["latents"], (raw - stats["shift_factor"]) * stats["scaling_factor"])
    assert torch.equal(LatentDataset(square, posterior="mode", scaling="model")[0]["latents"], raw)
    all_of_it = torch.stack([LatentDataset(square, scaling="measured", seed=1)[n]["latents"] for n in range(24)])
    assert float(all_of_it.std()) == pytest.approx(1, abs=0.1)


def test_codes_come_as_whole_numbers(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "vq", tmp_path / "codes", path=pictures, resolution=16))
    codes = LatentDataset(tmp_path / "codes")[0]["latents"]
    assert (codes.dtype, codes.shape) == (torch.int64, (8, 8))
    with pytest.raises(LatentDatasetError, match=r"scaling model: .* holds codes, whole numbers: take none"):
        LatentDataset(tmp_path / "codes", scaling="model")
    with pytest.raises(
        LatentDatasetError, match=r"without log-variances, so there is no posterior to sample: take the mode"
    ):
        LatentDataset(tmp_path / "codes", posterior="sample")


def test_a_folder_that_is_not_complete_is_refused(models: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentDatasetError, match=r"it has no manifest.json"):
        LatentDataset(tmp_path)
    make(settings(models / "kl", tmp_path / "part", path=pictures), shards=1)
    with pytest.raises(
        LatentDatasetError, match=r"is not complete: it has no index.parquet; .* run: python train/encode_dataset.py "
    ):
        LatentDataset(tmp_path / "part")


def test_a_shard_that_is_gone_is_named(latents: Path) -> None:
    (latents / "shards" / "00001.safetensors").unlink()
    with pytest.raises(LatentDatasetError, match=r"shards/00001.safetensors cannot be read"):
        LatentDataset(latents)


def test_rows_are_rows(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the items, with the index's entries as attributes, however the index is read in pieces."""
    monkeypatch.setattr("latent_ae.latent_dataset.dataset._ROWS_AT_ONCE", 4)
    dataset = LatentDataset(latents, seed=3)
    rows = list(dataset.rows())
    assert [row.number for row in rows] == list(range(len(NAMES)))
    for row, said in zip(rows, index(latents), strict=True):
        assert (row.name, row.id, row.label, row.caption) == (
            said["name"],
            said["id"],
            said["label"],
            said["caption"],
        )
        assert (row.height, row.width, row.flipped, list(row.crop)) == (
            said["height"],
            said["width"],
            said["flipped"],
            said["crop"],
        )
        assert torch.equal(row.latents, dataset[row.number]["latents"])
        tensors = load_file(latents / said["shard"])
        for name, tensor in dataset.stored(row.number).items():
            assert torch.equal(tensor, tensors[f"{name}.{said['grid']}"][said["row"]])


def test_rows_leave_out_what_the_data_set_leaves_out(square: Path) -> None:
    dataset = LatentDataset(square, flipped=False, duplicates=False)
    rows = list(dataset.rows())
    assert (len(rows), {row.flipped for row in rows}) == (11, {False})
    assert all(bytes(dataset[row.number]["id"].numpy()).hex() == row.id for row in rows)


def test_an_item_is_the_callers_own(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "kl", tmp_path / "float32", path=pictures, dtype="float32"))
    dataset = LatentDataset(tmp_path / "float32", posterior="mode")
    expected = dataset[0]["latents"].clone()
    dataset[0]["latents"].zero_()
    assert torch.equal(dataset[0]["latents"], expected)


def test_datasets_reads_the_index_in_one_line(latents: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    table = datasets.load_dataset(str(latents), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["name"] for row in table] == [row["name"] for row in index(latents)]
    assert table.features["label"].names == ["cat", "dog"]
    row = table[0]
    assert load_file(latents / row["shard"])[f"mean.{row['grid']}"][row["row"]].shape == (2, 8, 10)
