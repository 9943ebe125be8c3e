import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_ae.data.grid import GridConfig
from latent_ae.data.kept import KeptImages, decoded_bytes
from latent_ae.data.loader import TrainingSamples
from latent_ae.data.order.numbers import EpochOrder
from latent_ae.data.source import SourceParts
from latent_ae.data.sources.folder import FolderConfig
from latent_ae.data.sources.stream import StreamConfig
from latent_ae.data.transforms import TrainingCrop
from latent_ae.io.image import BrokenImage
from latent_ae.io.pixel_format import PixelFormat
from tests.data.images import ListSource, noise_image

BYTES = 20 * 16 * 4
"""of a noise image"""


class Counted(ListSource):
    """Notes which images were decoded."""

    def __init__(self, images: list[Image.Image | Exception]) -> None:
        super().__init__(images)
        self.loaded: Counter[int] = Counter()

    def load(self, index: int) -> Image.Image:
        self.loaded[index] += 1
        return super().load(index)


def counted(count: int = 4) -> Counted:
    return Counted([noise_image(seed) for seed in range(count)])


def test_images_that_all_fit_are_decoded_once() -> None:
    source = counted()
    opened = KeptImages(source, 4 * BYTES)
    for index in (3, 0, 3, 1, 2, 0, 1, 3):
        assert opened(index) is source.images[index]
    assert source.loaded == {0: 1, 1: 1, 2: 1, 3: 1}


def test_none_is_kept_of_more_than_fit() -> None:
    source = counted()
    opened = KeptImages(source, 4 * BYTES - 1)
    for index in (0, 1, 2, 0, 3, 0, 0):
        assert opened(index) is source.images[index]
    assert source.loaded == {0: 3, 1: 1, 2: 1, 3: 1}
    assert opened._kept is None
    off = KeptImages(source, 0)
    off(1), off(1)
    assert source.loaded[1] == 3


def test_a_broken_image_is_tried_again() -> None:
    source = Counted([BrokenImage("cut")])
    opened = KeptImages(source, BYTES)
    for _ in range(2):
        with pytest.raises(BrokenImage, match="cut"):
            opened(0)
    source.images[0] = noise_image(0)
    assert opened(0) is source.images[0]


def test_a_copy_for_another_process_begins_without_images() -> None:
    opened = KeptImages(counted(), 4 * BYTES)
    for index in range(4):
        opened(index)
    copy = pickle.loads(pickle.dumps(opened))
    assert copy._kept == {}
    for index in range(4):
        copy(index)
    assert len(copy._kept) == 4


def test_cells_keep_what_they_are_cut_out_of() -> None:
    source = counted()
    cells = GridConfig(tile=8).cut(SourceParts(source, ListSource([])), 0, numbers=False).train
    assert KeptImages(cells, 2**20)._kept is None


@pytest.mark.parametrize(("mode", "size"), [("1", 1), ("L", 1), ("P", 1), ("I;16", 2), ("LA", 4), ("RGB", 4), ("F", 4)])
def test_the_memory_of_an_image(mode: str, size: int) -> None:
    assert decoded_bytes(Image.new(mode, (7, 5))) == 35 * size
    assert decoded_bytes(np.zeros((7, 5, 3), np.uint16)) == 210


def test_samples_are_the_same(tmp_path: Path) -> None:
    for number in range(3):
        noise_image(number, 300, 280).save(tmp_path / f"{number}.jpg")
    source = FolderConfig(path=str(tmp_path), heldout_share=0).open().train
    crop = TrainingCrop(PixelFormat.picture(3), crop="random", scale=(1.0, 2.0), flip=True, color_gain=0.2)
    order = EpochOrder(source, 0, (32, 32))
    kept, decoded = (TrainingSamples(source, order, crop, seed=0, keep_bytes=most) for most in (2**20, 0))
    for number in range(9):
        assert np.array_equal(kept[number].pixels.numpy(), decoded[number].pixels.numpy())


def test_the_setting() -> None:
    settings: dict[str, Any] = {"path": "photos"}
    assert FolderConfig(**settings).kept_bytes == 512 * 2**20
    assert FolderConfig(**settings, workers=4).kept_bytes == 128 * 2**20
    assert FolderConfig(**settings, keep_mib=0).kept_bytes == 0
    assert FolderConfig(**settings).choice() == FolderConfig(**settings, keep_mib=3).choice()
    with pytest.raises(ValueError, match=r"data.keep_mib has no effect with data.source stream"):
        StreamConfig(**settings, keep_mib=3)
