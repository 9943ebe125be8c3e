import io
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_ae.errors import UserError
from latent_ae.io.image import (
    BrokenImage,
    from_tensor,
    image_grid,
    open_image,
    save_png,
    to_pil,
    to_tensor,
    to_uint8,
)
from tests.image_files import encoded, noise

# ---------------------------------------------------------------------------------------------------- open_image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI", "SGI", "PCX"])
def test_lossless_files_come_back_exactly_whatever_their_name(kind: str, tmp_path: Path) -> None:
    pixels = noise()
    file = tmp_path / "picture.jpg"
    file.write_bytes(encoded(to_pil(pixels), kind))
    assert np.array_equal(to_uint8(open_image(file), 3), pixels)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JPEG", "JPEG2000", "GIF"])
def test_lossy_files_are_read(kind: str) -> None:
    orange = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    decoded = to_uint8(open_image(io.BytesIO(encoded(to_pil(orange), kind))), 3)
    assert np.abs(decoded.astype(int) - orange).max() <= 8


def test_a_stream_stays_open() -> None:
    stream = io.BytesIO(encoded(to_pil(noise())))
    open_image(stream)
    assert not stream.closed


def test_a_choice_of_formats_leaves_the_others_out() -> None:
    data = encoded(to_pil(noise()), "PNG")
    assert open_image(io.BytesIO(data), formats=("JPEG", "PNG")).size == (9, 6)
    with pytest.raises(BrokenImage, match="it is none of JPEG, BMP"):
        open_image(io.BytesIO(data), formats=("JPEG", "BMP"))


def test_a_check_sees_the_header_before_a_pixel_is_decoded() -> None:
    sizes = []

    def check(image: Image.Image) -> None:
        sizes.append(image.size)
        raise UserError("too large")

    cut = encoded(to_pil(noise(60, 90)), "PNG")[:200]
    with pytest.raises(UserError, match="too large"):
        open_image(io.BytesIO(cut), check=check)
    assert sizes == [(90, 60)]
    with pytest.raises(BrokenImage):
        open_image(io.BytesIO(cut), check=lambda image: None)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert to_uint8(open_image(io.BytesIO(data)), 3)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_a_file_cut_short_is_broken_wherever_it_is_cut(kind: str, tmp_path: Path) -> None:
    data = encoded(to_pil(noise(16, 16)), kind)
    for length in range(0, len(data) - 20, 29):
        file = tmp_path / "cut"
        file.write_bytes(data[:length])
        with pytest.raises(BrokenImage) as caught:
            open_image(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"These are words.\n" * 40])
def test_what_is_no_raster_is_broken(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(content)
    with pytest.raises(BrokenImage, match=r"photo\.png: it is none of AVIF, BMP"):
        open_image(file)


def test_a_missing_file_and_a_folder_are_broken(tmp_path: Path) -> None:
    with pytest.raises(BrokenImage, match="there is no such file"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(BrokenImage, match="directory"):
        open_image(tmp_path)


@pytest.mark.parametrize("limit", [30, 53])  # 54 pixels: PIL refuses above twice the limit and warns above the limit
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_only_strangers_files_are_held_to_the_limit_of_pixels(
    kind: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(to_pil(noise()), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(BrokenImage, match="54 pixels"):
        open_image(io.BytesIO(data), limited=True)
    assert open_image(io.BytesIO(data)).size == (9, 6)
    assert limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 54)
    open_image(io.BytesIO(data), limited=True)


def test_damaged_exif_neither_warns_nor_breaks_the_image() -> None:
    for exif in (b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01", b"Exif\0\0nonsense"):
        image = open_image(io.BytesIO(encoded(to_pil(noise()), "JPEG", exif=exif)))
        assert to_uint8(image, 3).shape == (6, 9, 3)


class SlowStream(io.BytesIO):
    """Says when it is first read, and then waits for something."""

    def __init__(self, data: bytes, wait: Callable[[], object]) -> None:
        super().__init__(data)
        self.wait = wait
        self.started = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        if not self.started.is_set():
            self.started.set()
            self.wait()
        return super().read(size)


def test_two_threads_leave_the_warning_filters_as_they_were() -> None:
    # Were they let in together, the second would take the first one's filters for the process's own, and restore them.
    data = encoded(to_pil(noise()))
    second = SlowStream(data, wait=lambda: threads[0].join(5))
    first = SlowStream(data, wait=lambda: second.started.wait(0.3))
    before = list(warnings.filters)
    threads = [threading.Thread(target=open_image, args=(stream,)) for stream in (first, second)]
    threads[0].start()
    first.started.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_slow_file_holds_no_other_up() -> None:
    data = encoded(to_pil(noise()))
    go_on = threading.Event()
    slow = SlowStream(data, wait=lambda: go_on.wait(30))
    before = list(warnings.filters)
    thread = threading.Thread(target=open_image, args=(slow,))
    thread.start()
    slow.started.wait()
    other = threading.Thread(target=open_image, args=(io.BytesIO(data),))
    other.start()
    other.join(60)
    assert not other.is_alive()
    go_on.set()
    thread.join()
    assert list(warnings.filters) == before


def test_an_error_survives_the_way_back_from_a_worker_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BrokenImage("cut\nshort", "a.png")))
    assert (error.reason, error.name, str(error)) == ("cut short", "a.png", "cannot use the image a.png: cut short")


# ------------------------------------------------------------------------------------------------------- tensors


def test_every_value_survives_the_round_trip() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(2, 128, 1)
    tensor = to_tensor(pixels)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (1, 2, 128)
    assert (tensor.min().item(), tensor.max().item()) == (-1, 1)
    assert tensor[0, 0, 51].item() == pytest.approx(51 / 127.5 - 1, abs=1e-7)
    assert np.array_equal(from_tensor(tensor), pixels)
    assert np.array_equal(from_tensor(tensor.double()), pixels)


def test_axes_move_and_keep_their_order() -> None:
    pixels = noise()
    tensor = to_tensor(pixels)
    assert tensor[2, 4, 7].item() == pytest.approx(pixels[4, 7, 2] / 127.5 - 1, abs=1e-6)
    two = torch.stack([tensor, tensor.flip(2)])
    assert np.array_equal(from_tensor(two), np.stack([pixels, pixels[:, ::-1]]))


def test_values_are_rounded_and_clipped() -> None:
    levels = torch.tensor([[[-0.4, 0.4, 0.6, 127.5, 254.4, 255.4, 400.0, float("inf")]]])
    assert from_tensor(levels / 127.5 - 1)[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255, 255, 255]


@pytest.mark.parametrize("tensor", [torch.zeros(2, 2), torch.zeros(3, 2, 2, dtype=torch.uint8)])
def test_what_is_no_image_tensor_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected floats \[C, H, W\]"):
        from_tensor(tensor)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN in 1 of 12 values"):
        from_tensor(torch.tensor([float("nan")] + [0.0] * 11).reshape(3, 2, 2))


@pytest.mark.parametrize("pixels", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 5), np.uint8), np.zeros((2, 2, 3))])
def test_what_is_no_pixel_array_is_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    for border in (to_tensor, to_pil, lambda array: save_png(tmp_path / "x.png", array)):
        with pytest.raises(ValueError, match=r"expected pixels \[H, W, 1 to 4\] uint8"):
            border(pixels)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_save_png(channels: int, mode: str, tmp_path: Path) -> None:
    pixels = noise(channels=channels)
    save_png(tmp_path / "x.png", pixels)
    opened = open_image(tmp_path / "x.png")
    assert opened.mode == mode
    assert np.array_equal(to_uint8(opened, channels), pixels)


# ---------------------------------------------------------------------------------------------------------- grid


def test_a_grid_has_white_gaps_and_promotes_grey() -> None:
    red = np.full((2, 3, 3), (255, 0, 0), np.uint8)
    gray = np.full((1, 2, 1), 7, np.uint8)
    grid = image_grid([[red, gray], [gray]])
    assert grid.shape == (2 + 2 + 1, 3 + 2 + 2, 3)
    white = np.full_like(grid, 255)
    white[0:2, 0:3] = (255, 0, 0)
    white[0:1, 5:7] = 7
    white[4:5, 0:2] = 7
    assert np.array_equal(grid, white)


def test_a_grid_of_arrays_stays_grey() -> None:
    batch = np.stack([noise(channels=1, seed=seed) for seed in range(3)])
    grid = image_grid([batch, batch])
    assert grid.shape == (6 + 2 + 6, 9 * 3 + 2 * 2, 1)
    assert np.array_equal(grid[8:, 11:20], batch[1])


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        image_grid([[]])
