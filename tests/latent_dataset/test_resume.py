"""What may go on in a folder, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from latent_ae.config import ConfigError, validate
from latent_ae.data import HubConfig
from latent_ae.data.source import hash_place
from latent_ae.latent_dataset import LatentDatasetError
from latent_ae.latent_dataset.index import write_index
from latent_ae.latent_dataset.manifest import read_manifest, require_same_work
from latent_ae.latent_dataset.resume import require_seen
from latent_ae.latent_dataset.settings import EncodeConfig, command
from latent_ae.latent_dataset.shard import read_record
from tests.data.images import noise_image
from tests.latent_dataset.made import files, index, make, settings


@pytest.mark.parametrize(
    ("model", "changes", "difference"),
    [
        ("other", {}, "encoder.identity: "),
        ("vq", {}, "kind: moments -> vq_indices; dtype: float16 -> uint16; encoder.identity: "),
        ("kl", {"dtype": "float32"}, "dtype: float16 -> float32"),
        ("kl", {"logvar": False}, "kind: moments -> mean"),
        ("kl", {"resolution": 8}, "preprocessing.resolution: None -> 8"),
        ("kl", {"resolution": (8, 16)}, "preprocessing.resolution: None -> [8, 16]"),
        (
            "kl",
            {"resolution": 8, "fit": "pad"},
            "preprocessing.resolution: None -> 8; preprocessing.fit: None -> pad: ",
        ),
        ("kl", {"flips": True}, "preprocessing.flips: False -> True"),
        ("kl", {"precision": "fp32", "batch_size": 2}, "compute.precision: exact -> fp32; compute.batch_size: 1 -> 2"),
        ("kl", {"tile": 16}, "compute.tile: None -> 16"),
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


def test_images_of_the_same_names_are_not_the_same(latents: Path, models: Path, pictures: Path) -> None:
    """The first image of the first shard and that of the last are looked at."""
    before = files(latents)
    rows = read_record(latents, read_manifest(latents), 2).rows
    kept = (pictures / rows[0]["name"]).read_bytes()
    for name in (rows[0]["name"], read_record(latents, read_manifest(latents), 0).rows[0]["name"]):
        noise_image(99).save(pictures / name)
        with pytest.raises(
            LatentDatasetError,
            match=f"holds latents of other images: {name}: the image has changed since it was encoded: take another",
        ):
            make(settings(models / "kl", latents, path=pictures))
        (pictures / rows[0]["name"]).write_bytes(kept)
    assert files(latents) == before


@pytest.mark.parametrize(
    ("field", "there"),
    [
        ("source", "hub"),
        ("image_column", "picture"),
        ("train_split", "other"),
        ("heldout_split", "test"),
        ("heldout_share", 0.2),
    ],
)
def test_what_chooses_images_is_a_difference(latents: Path, field: str, there: object) -> None:
    manifest = read_manifest(latents)
    hub = HubConfig(path="x", heldout_share=0.4)
    wanted = manifest if field == "source" else manifest.model_copy(update={"data": hub})
    other = manifest.model_copy(update={"data": hub.model_copy(update={field: there})})
    difference = rf"data\.{field}: {there} -> {getattr(wanted.data, field)}: take another --out"
    with pytest.raises(LatentDatasetError, match=difference):
        require_same_work(latents, other, wanted)


def test_a_class_more_is_a_difference(latents: Path, models: Path, pictures: Path) -> None:
    """Its only image is held out: the images that are asked for stay, and their labels are other numbers."""
    train = settings(models / "kl", latents.with_name("train"), path=pictures, part="train")
    make(train)
    number = next(number for number in range(1000) if hash_place(f"ant/{number}.png") < 0.4)
    (pictures / "ant").mkdir()
    noise_image(50).save(pictures / "ant" / f"{number}.png")
    with pytest.raises(LatentDatasetError, match="label_names: 2 -> 3, the label 0 is cat -> ant: take another --out"):
        make(train)


def test_the_index_says_what_the_manifest_says(models: Path, pictures: Path, tmp_path: Path) -> None:
    """Also where a run goes on with the model at another place."""
    config = settings(models / "kl", tmp_path / "out", path=pictures)
    make(config, shards=1)
    moved = shutil.copytree(models / "kl", tmp_path / "moved")
    make(settings(moved, tmp_path / "out", path=pictures))
    assert "Made by kl of images" in (tmp_path / "out" / "README.md").read_text()


def test_names_that_the_index_cannot_hold_are_refused_before_anything_is_made(
    models: Path, pictures: Path, tmp_path: Path
) -> None:
    config = settings(models / "kl", tmp_path / "out", path=pictures)
    image = noise_image(1)
    for name in ("caf\udce9.png", "caf\udce9/a.png"):
        file = pictures / name
        file.parent.mkdir(exist_ok=True)
        with file.open("wb") as stream:
            image.save(stream, "PNG")
        with pytest.raises(LatentDatasetError, match=r"the name 'caf.udce9.*' is not UTF-8, and the index"):
            make(config)
        file.unlink()
    assert not (tmp_path / "out").exists()


def test_a_process_that_does_not_see_the_folder_says_so(latents: Path, tmp_path: Path) -> None:
    manifest = read_manifest(latents)
    require_seen(latents, manifest)
    with pytest.raises(
        LatentDatasetError, match="for one of the processes: --out must be one folder that all machines"
    ):
        require_seen(tmp_path, manifest)
    with pytest.raises(LatentDatasetError, match="dtype: float16 -> float32"):
        require_seen(latents, manifest.model_copy(update={"dtype": "float32"}))


def test_a_folder_with_other_files_is_refused(models: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(
        LatentDatasetError, match=r"holds other files \(.*\) and no manifest.json: take an empty folder"
    ):
        make(settings(models / "kl", pictures, path=pictures))


def unchecked(text: str, **changes: object) -> str:
    """As earlier versions wrote it, without a checksum, but for some changes."""
    tree = json.loads(text)
    del tree["checksum"]
    return json.dumps({**tree, **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "{", "cannot be read: JSONDecodeError: .*: restore it from a copy, or encode into another --out"),
        (lambda text: text.replace('"scaling_factor": 1.0', '"scaling_factor": 2.0'), "does not match its checksum"),
        (lambda text: unchecked(text, dtype="float32"), "it does not match its own fingerprint"),
        (lambda text: unchecked(text, schema=2), "has schema 2, this program reads 1"),
        (lambda text: unchecked(text, kind="others"), "is damaged: kind"),
        (lambda text: "{}", "is damaged, it has no 'schema'"),
        (lambda text: "[]", "is damaged: expected a JSON object, got list"),
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


def test_a_manifest_from_before_there_were_tiles_is_the_same_work(latents: Path, models: Path, pictures: Path) -> None:
    path = latents / "manifest.json"
    tree = json.loads(path.read_text())
    assert tree["compute"].pop("tile") is None
    path.write_text(json.dumps({name: value for name, value in tree.items() if name != "checksum"}))
    assert read_manifest(latents).compute.tile is None
    make(settings(models / "kl", latents, path=pictures))


def test_tiles_are_counted_and_written_down(models: Path, pictures: Path, tmp_path: Path) -> None:
    config = settings(models / "kl", tmp_path / "tiled", path=pictures, tile=8)
    manifest = make(config)
    assert read_manifest(tmp_path / "tiled").compute.tile == 8
    larger = [row for row in index(tmp_path / "tiled") if max(row["height"], row["width"]) > 8]
    (tmp_path / "tiled" / "stats.json").unlink()
    assert 0 < write_index(tmp_path / "tiled").tiled == len(larger)
    assert "--tile 8" in command(tmp_path / "tiled", manifest)
    assert "--tile" not in command(tmp_path / "tiled", make(settings(models / "kl", tmp_path / "w", path=pictures)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 4}, "batch_size has no effect with precision exact"),
        ({"tile": 256, "resolution": 256}, "tile 256 has no effect on images of resolution 256"),
        ({"tile": "on"}, "tile"),
        ({"label_column": "fine"}, "label_column has an effect only with data.source folder or hub, got digits"),
        ({"data": {"source": "stream", "path": "x"}}, "data.source stream cannot be turned into latents"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(EncodeConfig, given)
