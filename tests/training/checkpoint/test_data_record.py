import gzip
from pathlib import Path

import pytest

from latent_ae.data import FolderConfig
from latent_ae.training.checkpoint.data_record import FILE, record_data, require_same_data
from latent_ae.training.checkpoint.files import Checkpoint, CheckpointError
from tests.data.images import write_images


def test_images_that_were_trained_on_and_are_held_out_now_are_noticed(tmp_path: Path) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    run.mkdir()
    write_images(images, ["train/a.png", "train/b.png", "train/c.png", "val/d.png", "val/e.png"])
    before = FolderConfig(path=str(images)).open()
    record = record_data(before, 0)
    (run / FILE).write_bytes(gzip.compress(record.to_bytes()))
    checkpoint = Checkpoint(2, {}, {}, "")
    require_same_data(record, checkpoint, run, before)
    other = FolderConfig(path=str(images), train_split="val", heldout_split="train").open()
    with pytest.raises(CheckpointError, match="images are divided otherwise into training and held-out ones"):
        require_same_data(record_data(other, 0), checkpoint, run, other)
    (images / "val" / "e.png").unlink()
    fewer = FolderConfig(path=str(images)).open()
    with pytest.raises(CheckpointError, match=r"trained on: 1 removed \(val/e\.png\)\. Give"):
        require_same_data(record_data(fewer, 0), checkpoint, run, fewer)
