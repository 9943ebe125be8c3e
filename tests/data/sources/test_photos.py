import subprocess
import sys
from pathlib import Path

import pytest

from latent_ae.data import DataError, PhotosConfig
from latent_ae.data.sources import photos


def test_the_parts_and_the_stereo_pair() -> None:
    parts = PhotosConfig().open()
    heldout = [parts.heldout.sample_id(index) for index in range(4)]
    assert heldout == ["photos/camera.png", "photos/chelsea.png", "photos/coffee.png", "photos/rocket.jpg"]
    train = [parts.train.sample_id(index) for index in range(len(parts.train))]
    assert len(train) == 15
    assert {"photos/motorcycle_left.png", "photos/motorcycle_right.png"} <= set(train)
    assert parts.heldout.load(1).size == (451, 300)
    assert parts.train.load(3) is parts.train.load(3)


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photos, "_package_folder", lambda package: tmp_path / package)
    with pytest.raises(DataError, match=r"lacks .*skimage/data/astronaut\.png: choose another data\.source"):
        PhotosConfig().open()


def test_a_missing_package_is_named() -> None:
    with pytest.raises(DataError, match="the package no_such_package is not installed"):
        photos._package_folder("no_such_package")


@pytest.mark.slow
def test_the_packages_are_not_imported() -> None:
    code = (
        "import sys; from latent_ae.data import PhotosConfig; "
        "PhotosConfig().open(); sys.exit(len({'skimage', 'sklearn', 'datasets'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
