"""Crops and views of image files, against the whole file decoded, turned, converted and only then cut."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_ae.data.grid import GridConfig
from latent_ae.data.loader import TrainingSamples
from latent_ae.data.order.numbers import EpochOrder
from latent_ae.data.reading import PICTURES
from latent_ae.data.source import SourceParts
from latent_ae.data.sources.folder import FolderConfig
from latent_ae.data.transforms import Filter, Fit, Fitting, TrainingCrop, evaluation_view
from latent_ae.io.image import open_image, to_pil, to_uint8
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.io.undecoded import UndecodedImage
from latent_ae.randomness import numpy_generator
from tests.io.test_undecoded import FILES, HEIGHT, WIDTH, photo

BACKGROUND = (10, 200, 30)
JPEGS = ("4:2:0", "progressive", "grey", "CMYK", "a profile", "a profile, turned", "orientation 5", "orientation 7")


def png(mode: str) -> bytes:
    """A file that is decoded whole, with what an image of that mode has beside its colours."""
    image, alpha = photo(), photo("L")
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.asarray(alpha).astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        image.putalpha(alpha)
    stream = io.BytesIO()
    options: dict[str, Any] = {"transparency": (200, 100, 50)} if mode == "RGB key" else {}
    image.convert(mode.removesuffix(" key")).save(stream, "PNG", compress_level=1, **options)
    return stream.getvalue()


PNGS = {f"PNG {mode}": png(mode) for mode in ("1", "L", "P", "RGB", "RGB key", "RGBA", "LA", "I;16")}
ALL = {name: FILES[name] for name in JPEGS} | PNGS


def converted(data: bytes, channels: int) -> Image.Image:
    """The whole file in the channels of a model."""
    return to_pil(to_uint8(open_image(io.BytesIO(data)), channels, BACKGROUND))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ALL)
def test_a_training_crop_is_cut_out_of_the_converted_image(name: str, channels: int) -> None:
    opened, whole = PICTURES.open(io.BytesIO(ALL[name])), converted(ALL[name], channels)
    assert isinstance(opened, UndecodedImage) == (name in JPEGS)
    own_size = TrainingCrop(PixelFormat.picture(channels), crop="random", background=BACKGROUND)
    for draw in range(3):
        generator = numpy_generator(0, "crop", draw)
        assert generator.uniform() >= 0  # the factor, of which there is no choice
        left = int(generator.integers(whole.width - 48, endpoint=True))
        top = int(generator.integers(whole.height - 40, endpoint=True))
        expected = to_uint8(whole.crop((left, top, left + 48, top + 40)), channels)
        assert np.array_equal(own_size(opened, (40, 48), numpy_generator(0, "crop", draw)), expected)


@pytest.mark.parametrize("name", ALL)
def test_a_resized_crop_is_that_of_the_converted_image(name: str) -> None:
    opened = PICTURES.open(io.BytesIO(ALL[name]))
    for channels in (1, 3, 4):
        form, whole = PixelFormat.picture(channels), converted(ALL[name], channels)
        for settings in ({"scale": (1.0, 2.0), "flip": True}, {"scale": (0.4, 5.0)}, {"largest": True}):
            crop = TrainingCrop(form, crop="random", background=BACKGROUND, **settings)
            for draw in range(2):
                ours, theirs = (crop(image, (40, 48), numpy_generator(0, "crop", draw)) for image in (opened, whole))
                assert np.array_equal(ours, theirs), settings


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize("name", ["4:2:0", "a profile, turned", "orientation 6", "CMYK"])
def test_a_view_is_that_of_the_converted_image(name: str, fit: Fit, filter: Filter) -> None:  # noqa: A002
    whole, fitting = converted(FILES[name], 3), Fitting(fit, filter)
    for size in ((64, 32), (40, 300), (600, 600)):
        box, seen = fitting.place(whole, size, None)
        expected = whole.resize(seen[::-1], Image.Resampling[filter.upper()], box=box)
        ours = evaluation_view(
            PICTURES.open(io.BytesIO(FILES[name])),
            pixel_format=PixelFormat.picture(3),
            size=size,
            background=BACKGROUND,
            fitting=fitting,
        )
        assert np.array_equal(ours, np.asarray(expected)), size


def test_a_whole_view_is_the_converted_image() -> None:
    for name in JPEGS:
        image = PICTURES.open(io.BytesIO(FILES[name]))
        ours = evaluation_view(image, pixel_format=PixelFormat.picture(3), size=None, background=BACKGROUND)
        assert np.array_equal(ours, np.asarray(converted(FILES[name], 3)))


def test_samples_of_a_folder_and_of_its_cells(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(JPEGS):
        (tmp_path / f"{number}.jpg").write_bytes(FILES[name])
    source = FolderConfig(path=str(tmp_path), heldout_share=0).open()
    crop = TrainingCrop(PixelFormat.picture(3), crop="random", scale=(1.0, 1.5))
    samples = TrainingSamples(source.train, EpochOrder(source.train, 0, (32, 32)), crop, seed=0)
    cells = GridConfig(tile=120).cut(SourceParts(source.train, source.heldout), 0, numbers=False).train
    of_cells = TrainingSamples(cells, EpochOrder(cells, 0, (32, 32)), crop, seed=0)
    ours = [each[number] for each in (samples, of_cells) for number in range(len(JPEGS))]
    monkeypatch.setattr("latent_ae.data.reading.open_undecoded", lambda file: None)
    whole = [each[number] for each in (samples, of_cells) for number in range(len(JPEGS))]
    for one, other in zip(ours, whole, strict=True):
        assert one.sample_id == other.sample_id
        assert np.array_equal(one.pixels.numpy(), other.pixels.numpy())


def test_a_small_part_of_a_file_is_all_that_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[tuple[int, int]] = []
    for step in ("convert", "transpose", "point"):
        method = getattr(Image.Image, step)

        def noted(image: Image.Image, *arguments: Any, method: Any = method, **named: Any) -> Image.Image:
            touched.append(image.size)
            return method(image, *arguments, **named)

        monkeypatch.setattr(Image.Image, step, noted)
    crop = TrainingCrop(PixelFormat.picture(3), crop="random", scale=(1.0, 2.0))
    for name in ("CMYK", "a profile, turned", "orientation 5"):
        crop(PICTURES.open(io.BytesIO(FILES[name])), (16, 16), numpy_generator(0, "crop", 0))
    assert touched
    assert max(width * height for width, height in touched) < 60 * 60 < WIDTH * HEIGHT
