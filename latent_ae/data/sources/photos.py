"""The photographs that ship inside scikit-image and scikit-learn: 19 real images that need no download."""

import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image

from latent_ae.data.settings import DataConfig
from latent_ae.data.source import DataError, SourceParts
from latent_ae.io.image import open_image

_SKIMAGE, _SKLEARN = ("skimage", "data"), ("sklearn", "datasets/images")
# The two views of the motorcycle show the same scene, so they stay on the same side.
_TRAIN = {
    "astronaut.png": _SKIMAGE,
    "brick.png": _SKIMAGE,
    "cell.png": _SKIMAGE,
    "china.jpg": _SKLEARN,
    "clock_motion.png": _SKIMAGE,
    "coins.png": _SKIMAGE,
    "flower.jpg": _SKLEARN,
    "grass.png": _SKIMAGE,
    "gravel.png": _SKIMAGE,
    "hubble_deep_field.jpg": _SKIMAGE,
    "ihc.png": _SKIMAGE,
    "moon.png": _SKIMAGE,
    "motorcycle_left.png": _SKIMAGE,
    "motorcycle_right.png": _SKIMAGE,
    "retina.jpg": _SKIMAGE,
}
_HELDOUT = {"camera.png": _SKIMAGE, "chelsea.png": _SKIMAGE, "coffee.png": _SKIMAGE, "rocket.jpg": _SKIMAGE}


class Photos:
    """Photographs from 300 to 1411 pixels on the shorter side, RGB or grey, decoded once and kept."""

    def __init__(self, files: dict[str, Path]) -> None:
        """`files` are image files by name. Raises BrokenImage."""
        self._names = list(files)
        self._images = [open_image(path) for path in files.values()]

    def __len__(self) -> int:
        return len(self._names)

    def sample_id(self, index: int) -> str:
        """`photos/` and the file's name."""
        return f"photos/{self._names[index]}"

    def load(self, index: int) -> Image.Image:
        """The photograph at its own size."""
        return self._images[index]


class PhotosConfig(DataConfig):
    """photos: 19 photographs of scikit-image and scikit-learn, which need no download."""

    has_numbers: ClassVar[bool] = False

    source: Literal["photos"] = "photos"

    def open(self) -> SourceParts:
        """Four of the photographs are held out, always the same. Raises DataError if the packages lack one."""
        return SourceParts(Photos(_files(_TRAIN)), Photos(_files(_HELDOUT)))


def _files(places: dict[str, tuple[str, str]]) -> dict[str, Path]:
    files = {name: _package_folder(package) / folder / name for name, (package, folder) in places.items()}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"data.source photos: the installed package lacks {path}: choose another data.source")
    return files


def _package_folder(package: str) -> Path:
    # skimage.data would download what is missing; and importing either package takes seconds.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"data.source photos: the package {package} is not installed: reinstall latent-ae")
    return Path(spec.origin).parent
