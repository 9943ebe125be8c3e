"""Files one batch after another: bounded, each apart from the others, of every kind, and with a record."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.inference.batching import Tick
from latent_ae.inference.file_jobs import BATCH_COUNT, BATCH_PIXELS, Item, Outcome, Target, Task, plan, run
from latent_ae.inference.file_tasks import Reconstruct
from latent_ae.io.image import Pixels
from latent_ae.io.image_writing import read_record, write_image
from latent_ae.io.paths import find_files
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from latent_ae.models.parts import decoder_identity

# ----------------------------------------------------------------------------------------------------------- batches


class Noted:
    """A Watch that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def say(self, file: Path, sentence: str) -> None:
        self.told.append(f"{file.name} {sentence}")

    def begin(self, file: Path) -> None:
        self.told.append(file.name)

    def advance(self, share: float) -> None:
        self.told.append(share)

    def done(self) -> None:
        self.told.append("done")


class Sizes(Task[int, str]):
    """Files that hold a number, of pixels, to files of as many marks; those of 13 fail when they are made."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.read_ahead = 0

    def is_made(self, target: Target, digest: str) -> bool:
        return target.outputs[0].exists()

    def read(self, file: BinaryIO, page: int | None) -> int:
        self.read_ahead += 1
        if not (text := file.read()).isdigit():
            raise UserError("no number")
        return int(text)

    def pixels(self, given: int) -> int:
        return given

    def forecast(self, given: int) -> Sequence[str]:
        return ["is large"] if given > BATCH_PIXELS else ()

    def smaller(self, given: int) -> str:
        return f"{given - 1} would fit"

    def make(self, items: Sequence[Item[int]], tick: Tick | None) -> list[str]:
        if tick is not None:
            tick(0.5)
        self.batches.append([item.given for item in items])
        assert self.read_ahead <= len(items) + 1, "more was read than the batch and what did not fit into it"
        self.read_ahead = 1
        if any(item.given == 13 for item in items):
            raise UserError("thirteen")
        if any(item.given == 15 for item in items):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")
        if any(item.given == 16 for item in items):
            raise ZeroDivisionError
        return [item.digest[:4] for item in items]

    def write(self, item: Item[int], made: str) -> None:
        if item.given == 14:
            raise UserError("cannot be written")
        if item.given == 17:  # what is alone is made as it is written
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        item.target.outputs[0].write_text(made)


def run_sizes(folder: Path, sizes: Sequence[object]) -> tuple[Sizes, Outcome, int]:
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    for number, size in enumerate(sizes):
        (folder / "in" / f"{number:04d}.txt").write_text(str(size))
    targets = plan(find_files([folder / "in"], {".txt"}).sources, folder / "out", ".done")
    task, watch = Sizes(), Noted()
    outcome = run(task, targets, watch)
    return task, outcome, watch.told.count("done")


def test_batches_are_bounded_in_pixels_and_images(tmp_path: Path) -> None:
    half = BATCH_PIXELS // 2
    task, outcome, done = run_sizes(tmp_path, [half, half, half, 3 * half, 5, *[1] * (BATCH_COUNT + 2)])
    assert task.batches == [[half, half], [half], [3 * half], [5, *[1] * (BATCH_COUNT - 1)], [1, 1, 1]]
    assert (outcome.made, outcome.kept, outcome.failed, done) == (BATCH_COUNT + 7, 0, [], BATCH_COUNT + 7)


def test_what_fails_takes_nothing_with_it(tmp_path: Path) -> None:
    task, outcome, done = run_sizes(tmp_path, [1, 13, 2, "x", 14, 3])
    assert task.batches == [[1, 13, 2, 14, 3], [1], [13], [2], [14], [3]]
    reasons = {file.name: reason for file, reason in outcome.failed}
    assert reasons == {"0001.txt": "thirteen", "0003.txt": "no number", "0004.txt": "cannot be written"}
    assert (outcome.made, done) == (3, 6)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0000.done", "0002.done", "0005.done"]


def test_memory_that_runs_out_over_one_file_is_its_own_affair(tmp_path: Path) -> None:
    task, outcome, done = run_sizes(tmp_path, [1, 15, 17, 2])
    assert task.batches == [[1, 15, 17, 2], [1], [15], [17], [2]]
    assert [(file.name, reason) for file, reason in outcome.failed] == [
        ("0001.txt", "the memory ran out over it: 14 would fit"),
        ("0002.txt", "the memory ran out over it: 16 would fit"),
    ]
    assert (outcome.made, done) == (2, 4)


def test_a_large_image_is_foretold_and_watched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, size in (("a", 5), ("b", BATCH_PIXELS + 1), ("c", BATCH_PIXELS)):
        (tmp_path / "in" / name).with_suffix(".txt").write_text(str(size))
    watch = Noted()
    run(Sizes(), plan(find_files([tmp_path / "in"], {".txt"}).sources, tmp_path, ".done"), watch)
    assert watch.told == ["done", "b.txt is large", "b.txt", 0.5, "done", "done"]


def test_a_defect_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_sizes(tmp_path, [1, 16])


def test_a_source_is_never_an_output(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.png is one of the files to read and would be overwritten"):
        plan(find_files([tmp_path / "a.png"], ()).sources, tmp_path / "x" / "..", ".png")


# ------------------------------------------------------------------------------------------------- files of every kind

PIXELS: NDArray[np.uint8] = np.random.default_rng(3).integers(0, 256, (11, 6, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def codecs() -> dict[str, Codec]:
    models = {
        name: build_autoencoder(
            ModelConfig(preset="tiny", image_channels=channels, block_out_channels=(4, 4, 8)), seed=0, resolution=16
        )
        for name, channels in (("grey", 1), ("color", 3))
    }
    return {name: Codec(model, name=name) for name, model in models.items()}


def reconstructed(codec: Codec, file: Path, out: Path) -> Outcome:
    return run(Reconstruct(codec), [Target(file, (out,))], Noted())


def cmyk_jpeg(file: Path) -> NDArray[np.uint8]:
    Image.fromarray(PIXELS).convert("CMYK").save(file, "JPEG", quality=95)
    cmyk = np.asarray(Image.open(file)).astype(int)
    assert cmyk.shape == (11, 6, 4)
    ink, black = cmyk[:, :, :3], cmyk[:, :, 3:]
    return np.floor((255 - ink) * (255 - black) / 255 + 0.5).astype(np.uint8)


def sixteen_bit_png(file: Path) -> NDArray[np.uint8]:
    values = (PIXELS[:, :, 0].astype(np.uint16) * 257) ^ 1
    Image.fromarray(values).save(file, "PNG")
    return np.rint(values[:, :, None] / 257).astype(np.uint8).repeat(3, axis=2)


def rgba_png(file: Path) -> NDArray[np.uint8]:
    alpha = PIXELS[:, :, ::-1][:, :, :1]
    Image.fromarray(np.dstack([PIXELS, alpha])).save(file, "PNG")
    share = alpha / 255
    return np.rint(share * PIXELS + (1 - share) * 255).astype(np.uint8)


def turned_jpeg(file: Path) -> NDArray[np.uint8]:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    Image.fromarray(PIXELS).save(file, "JPEG", quality=95, exif=exif)
    lying = np.asarray(Image.open(file))
    assert lying.shape == (11, 6, 3)
    return np.rot90(lying, k=-1)


def palette_png(file: Path) -> NDArray[np.uint8]:
    image = Image.fromarray(PIXELS).quantize(8)
    image.save(file, "PNG")
    return np.asarray(image.getpalette(), dtype=np.uint8).reshape(-1, 3)[np.asarray(image)]


def one_bit_png(file: Path) -> NDArray[np.uint8]:
    bits = PIXELS[:, :, 0] > 127
    Image.fromarray(bits).save(file, "PNG")
    return np.where(bits, 255, 0).astype(np.uint8)[:, :, None].repeat(3, axis=2)


@pytest.mark.parametrize("write", [cmyk_jpeg, sixteen_bit_png, rgba_png, turned_jpeg, palette_png, one_bit_png])
def test_files_of_every_mode(codecs: dict[str, Codec], tmp_path: Path, write: Callable[[Path], Pixels]) -> None:
    expected = write(tmp_path / "image")
    assert reconstructed(codecs["color"], tmp_path / "image", tmp_path / "out.png").made == 1
    with Image.open(tmp_path / "out.png") as written:
        assert (written.format, written.mode) == ("PNG", "RGB")
        got = np.asarray(written)
    assert got.shape == expected.shape
    (wanted,) = codecs["color"].reconstruct([np.ascontiguousarray(expected)])
    # PIL blends CMYK in integers, which may be one level off in the input.
    assert np.abs(got.astype(int) - wanted).max() <= (write is cmyk_jpeg)


def test_a_grey_model_writes_grey_files(codecs: dict[str, Codec], tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "in.png")
    reconstructed(codecs["grey"], tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert (written.mode, written.size) == ("L", (6, 11))


def test_a_broken_file_leaves_nothing_behind(codecs: dict[str, Codec], tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"no image")
    outcome = reconstructed(codecs["color"], tmp_path / "in.png", tmp_path / "out.png")
    ((file, reason),) = outcome.failed
    assert file == tmp_path / "in.png"
    assert reason.startswith("it is none of AVIF, BMP")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


# ------------------------------------------------------------------------------------------------------------ record


def test_a_record_comes_back_and_the_pixels_too(tmp_path: Path) -> None:
    record = {"source": "a" * 64, "index": 3, "what": "\N{GREEK SMALL LETTER ALPHA}"}
    write_image(tmp_path / "a.png", PIXELS, PixelFormat.picture(3), record=record)
    assert read_record(tmp_path / "a.png") == (record, PIXELS.shape[:2])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), PIXELS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_png_that_is_damaged_anywhere_has_no_record(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    write_image(file, PIXELS, PixelFormat.picture(3), record={"a": 1})
    data = bytearray(file.read_bytes())
    for place in range(0, len(data), 3):
        file.write_bytes(data[:place])
        assert read_record(file) is None
        data[place] ^= 0x04
        file.write_bytes(data)
        assert read_record(file) is None
        data[place] ^= 0x04
    Image.fromarray(PIXELS).save(file)
    assert read_record(file) is None
    assert read_record(tmp_path / "missing.png") is None


def test_the_decoders_identity_is_of_the_decoder_alone() -> None:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    before = decoder_identity(model)
    model.encoder.conv_in.bias.data += 1
    assert decoder_identity(model) == before
    model.decoder.conv_in.bias.data += 1
    assert decoder_identity(model) != before
