import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from latent_ae.data import DataError, PhotosConfig


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
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda package: SimpleNamespace(origin=f"{tmp_path}/{package}/__init__.py")
    )
    with pytest.raises(DataError, match=r"lacks .*skimage/data/astronaut\.png: choose another data\.source"):
        PhotosConfig().open()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(DataError, match="the package skimage is not installed"):
        PhotosConfig().open()


@pytest.mark.slow
def test_the_packages_are_not_imported() -> None:
    code = (
        "import sys; from latent_ae.data import PhotosConfig; "
        "PhotosConfig().open(); sys.exit(len({'skimage', 'sklearn', 'datasets'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
