"""What may go on in a folder, and what is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latent_ae.config import ConfigError, validate
from latent_ae.latent_dataset import LatentDatasetError
from latent_ae.latent_dataset.manifest import read_manifest
from latent_ae.latent_dataset.preparing import only_run
from latent_ae.latent_dataset.settings import EncodeConfig
from tests.data.images import noise_image
from tests.latent_dataset.made import files, make, settings


@pytest.mark.parametrize(
    ("model", "changes", "difference"),
    [
        ("other", {}, "encoder.identity: "),
        ("vq", {}, "kind: moments -> vq_indices; dtype: float16 -> uint16; encoder.identity: "),
        ("kl", {"dtype": "float32"}, "dtype: float16 -> float32"),
        ("kl", {"logvar": False}, "kind: moments -> mean"),
        ("kl", {"resolution": 8}, "preprocessing.resolution: None -> 8"),
        ("kl", {"flips": True}, "preprocessing.flips: False -> True"),
        ("kl", {"precision": "fp32", "batch_size": 2}, "compute.precision: exact -> fp32; compute.batch_size: 1 -> 2"),
        ("kl", {"shard_images": 5}, "images.shard_images: 4 -> 5"),
        ("kl", {"part": "train"}, "images.count: 9 -> "),
    ],
)
def test_other_latents_in_the_same_folder_are_refused_with_the_difference(  # noqa: PLR0917  # fixtures
    latents: Path, models: Path, pictures: Path, model: str, changes: dict[str, Any], difference: str
) -> None:
    before = files(latents)
    with pytest.raises(LatentDatasetError, match=f"there -> asked for: {re.escape(difference)}.*take another --out"):
        make(settings(models / model, latents, path=pictures, **changes))
    assert files(latents) == before


def test_another_image_is_another_data_set(latents: Path, models: Path, pictures: Path) -> None:
    noise_image(50).save(pictures / "g.png")
    with pytest.raises(LatentDatasetError, match=r"images.count: 9 -> 10; images.names_sha256: "):
        make(settings(models / "kl", latents, path=pictures))


def test_images_that_moved_are_the_same(latents: Path, models: Path, pictures: Path) -> None:
    before = files(latents)
    make(settings(models / "kl", latents, path=pictures.rename(pictures.with_name("moved"))))
    assert files(latents) == before


def test_a_folder_with_other_files_is_refused(models: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(
        LatentDatasetError, match=r"holds other files \(.*\) and no manifest.json: take an empty folder"
    ):
        make(settings(models / "kl", pictures, path=pictures))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "{", "is damaged"),
        (
            lambda text: text.replace('"dtype": "float16"', '"dtype": "float32"'),
            "it does not match its own fingerprint",
        ),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, this program reads 1"),
        (lambda text: text.replace('"kind": "moments"', '"kind": "others"'), "is damaged: kind"),
        (lambda text: "[]", "is damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(latents: Path, damage: Any, message: str) -> None:
    path = latents / "manifest.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(LatentDatasetError, match=message):
        read_manifest(latents)


def test_the_manifest_says_how_to_open_the_images_again(latents: Path, pictures: Path) -> None:
    tree = json.loads((latents / "manifest.json").read_text())
    assert tree["data"]["path"] == str(pictures)
    assert "workers" not in tree["data"]
    assert read_manifest(latents).fingerprint == tree["fingerprint"]


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-c", HOLDER, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LatentDatasetError, match="another run is writing to"), only_run(tmp_path):
            pass
        other.kill()
        other.communicate()
    with only_run(tmp_path):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 4}, "batch_size has no effect with precision exact"),
        ({"label_column": "fine"}, "label_column has an effect only with data.source hub, got digits"),
        ({"data": {"source": "stream", "path": "x"}}, "data.source stream cannot be turned into latents"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(EncodeConfig, given)
