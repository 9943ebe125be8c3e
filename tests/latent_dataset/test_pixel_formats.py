"""Latents of images of any channels and of numbers: read as the model reads them, in the data's units and type."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from latent_ae.config import ConfigError, validate
from latent_ae.data import SOURCES, DataConfig, DataError, SourceParts
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.latent_dataset import LatentDataset, verify
from latent_ae.latent_dataset.manifest import read_manifest
from latent_ae.latent_dataset.settings import EncodeConfig, command
from tests.inference.numbers import lossless
from tests.latent_dataset.made import files, make

BANDS = PixelFormat(5, numbers=True, dtype="uint16", ranges=((100.0, 4000.0),), unit="reflectance")


class Arrays:
    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def sample_id(self, index: int) -> str:
        return self.files[index].name

    def load(self, index: int) -> Array:
        return np.load(self.files[index])


class ArraysConfig(DataConfig):
    """arrays: a source that only this test has."""

    source: Literal["arrays"] = "arrays"
    path: str

    def open(self) -> SourceParts:
        found = sorted(Path(self.path).glob("*.npy"))
        return SourceParts(Arrays(found[1:]), Arrays(found[:1]))


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images of 8 channels in 12 bits, one of another size, and one with 8 bits."""
    monkeypatch.setitem(SOURCES, "arrays", ArraysConfig)
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed in range(6):
        height = 6 if seed == 2 else 8
        values = np.random.default_rng(seed).integers(100, 4001, (height, 10, 8), np.uint16)
        np.save(folder / f"{seed}.npy", values.clip(0, 255).astype(np.uint8) if seed == 4 else values)
    return folder


def settings(scans: Path, out: Path, **changes: object) -> EncodeConfig:
    data = {"source": "arrays", "path": str(scans), "bands": changes.pop("bands", [8, 1, 2, 3, 4])}
    # Bands are a setting of numbers, which the model's range makes of them.
    data["value_range"] = [100, 4000]
    return EncodeConfig(
        model="m", out=str(out), data=data, **{"part": "all", "shard_images": 4, "dtype": "float32", **changes}
    )


@pytest.mark.parametrize("changes", [{}, {"precision": "fp32", "batch_size": 3, "flips": True}])
def test_numbers_come_back_in_their_units_and_type(scans: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    codec, out = lossless(BANDS), tmp_path / "out"
    config = settings(scans, out, **changes)
    make(config, codec=codec)
    dataset = LatentDataset(out, posterior="mode", flipped=False)
    assert dataset.pixel_format == BANDS.replace(bands=(8, 1, 2, 3, 4))
    rows = list(dataset.rows())
    assert len({row.id for row in rows}) == len(rows) == 6
    for row in rows:
        expected = np.load(scans / row.name)[:, :, [7, 0, 1, 2, 3]].clip(100, 4000)
        (pixels,) = codec.decode_tensor(row.latents[None])
        assert np.array_equal(BANDS.from_tensor(pixels)[: row.height], expected), row.name
    assert verify(out, count=0).problems == []
    assert f"at their own size, {BANDS.describe()}; mean in float32" in (out / "README.md").read_text()


def test_the_same_command_goes_on_and_another_format_is_refused(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(settings(scans, out), codec=lossless(BANDS))
    before, manifest = files(out), read_manifest(out)
    make(settings(scans, out), codec=lossless(BANDS))
    assert files(out) == before
    assert "--data.bands 8 1 2 3 4" in command(out, manifest)
    for other, change in ((BANDS.replace(gamma=2.0), {}), (BANDS, {"bands": [7, 1, 2, 3, 4]})):
        with pytest.raises(ValueError, match=r"there -> asked for: preprocessing\.pixel_format\.\w+: .*take another"):
            make(settings(scans, out, **change), codec=lossless(other))
    assert files(out) == before


def test_numbers_are_resized_as_numbers(scans: Path, tmp_path: Path) -> None:
    make(settings(scans, tmp_path / "out", resolution=8, part="heldout"), codec=lossless(BANDS))
    (row,) = LatentDataset(tmp_path / "out", posterior="mode").rows()
    assert (row.height, row.width, row.crop) == (8, 8, (1, 0, 9, 8))
    (pixels,) = lossless(BANDS).decode_tensor(row.latents[None])
    assert np.array_equal(BANDS.from_tensor(pixels), np.load(scans / "0.npy")[:, 1:9, [7, 0, 1, 2, 3]])


def test_images_that_do_not_fit_are_refused_in_a_line(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        make(settings(scans, tmp_path / "out", bands=None), codec=lossless(BANDS))
    assert str(error.value).startswith(
        f"lossless encodes {BANDS.describe()}, and none of 6 images fits: 0.npy: it has 8 channels, the model's images "
        "have 5: "
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"^data\.percentiles has no effect: values are read in the range that the"):
        validate(EncodeConfig, {"data": {"source": "folder", "path": "x", "percentiles": [1, 99]}})


def test_alpha_is_encoded_as_the_model_has_it(tmp_path: Path) -> None:
    form = PixelFormat.picture(4, alpha="premultiplied")
    (tmp_path / "sprites").mkdir()
    for seed in range(4):
        levels = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), np.uint8)
        Image.fromarray(levels).save(tmp_path / "sprites" / f"{seed}.png")
    data = {"source": "folder", "path": str(tmp_path / "sprites"), "heldout_share": 0.5}
    for name, changes in (("whole", {}), ("square", {"resolution": 8})):
        given = {"model": "m", "part": "all", "dtype": "float32", "data": data, "out": str(tmp_path / name), **changes}
        make(EncodeConfig(**given), codec=lossless(form))
        for row in LatentDataset(tmp_path / name, posterior="mode").rows():
            levels = np.asarray(Image.open(tmp_path / "sprites" / row.name)).astype(int)
            colours = (levels[:, :, :3] * levels[:, :, 3:] + 127) // 255
            (pixels,) = lossless(form).decode_tensor(row.latents[None])
            assert np.array_equal(form.from_tensor(pixels), np.concatenate([colours, levels[:, :, 3:]], 2))
        assert LatentDataset(tmp_path / name).pixel_format == form


def test_grey_pictures_need_no_word_about_it(latents: Path) -> None:
    """As earlier versions wrote them."""
    assert "pixel_format" not in json.loads((latents / "manifest.json").read_text())["preprocessing"]
    assert LatentDataset(latents).pixel_format == PixelFormat.picture(1)
