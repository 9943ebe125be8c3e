"""`encode`, `decode` and `reconstruct` with models of numbers and of alpha: nothing is lost on the way to files."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from latent_ae.inference import Codec
from latent_ae.io.image_writing import write_image
from latent_ae.io.latent_file.latents import describe, read_latents
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.io.rasters import read_raster
from tests.cli.conftest import Run, state
from tests.inference.numbers import lossless

DEEP = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),), unit="HU")
BANDS = PixelFormat(5, numbers=True, dtype="float32", ranges=((0.0, 1.0),), rgb=(3, 2, 1))
RGBA = PixelFormat.picture(4)
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> object:
    """Makes every --model one that loses nothing of images of a format."""

    def set_format(form: PixelFormat) -> None:
        codec = lossless(form)
        monkeypatch.setattr(Codec, "load", lambda *_, **__: codec)

    return set_format


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "case",
    [
        (DEEP, RAMP, ".png"),
        (DEEP, RAMP, ".npy"),
        (BANDS, np.random.default_rng(0).random((21, 34, 5), np.float32), ".tif"),
        (RGBA, np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8), ".png"),
    ],
)
def test_every_value_survives_all_commands(use, run: Run, tmp_path: Path, case: tuple[PixelFormat, Array, str]) -> None:
    form, image, suffix = case
    use(form)
    source, model = tmp_path / f"in{suffix}", ("--model", "some/m")
    write_image(source, image, form)
    asked = ("--suffix", suffix) if suffix == ".npy" else ()
    assert run("encode", source, "-o", tmp_path / "latents", *model)[::2] == (0, [])
    assert run("decode", tmp_path / "latents", "-o", tmp_path / "decoded", *model, *asked)[::2] == (0, [])
    assert run("reconstruct", source, "-o", tmp_path / "back", *model, *asked)[::2] == (0, [])
    for folder in ("decoded", "back"):
        assert files(tmp_path / folder) == [f"in{suffix}"]
        values = read_raster(tmp_path / folder / f"in{suffix}").values
        assert values.dtype == image.dtype
        np.testing.assert_allclose(values, image, atol=0 if form.dtype != "float32" else 1e-6)
    before = state(tmp_path)
    said = run("reconstruct", source, "-o", tmp_path / "back", *model, *asked)[1]
    assert ("1 were there already" in said) == (suffix != ".npy")
    assert suffix == ".npy" or state(tmp_path) == before


def test_inspect_shows_the_pixels(use, run: Run, tmp_path: Path) -> None:
    use(BANDS)
    np.save(tmp_path / "a.npy", np.zeros((8, 9, 5), np.float32))
    run("encode", tmp_path / "a.npy", "-o", tmp_path, "--model", "some/m")
    said = run("inspect", tmp_path / "a.safetensors")[1]
    (line,) = [line for line in said.splitlines() if line.startswith("pixel_format")]
    assert line.endswith("  5 channels, float32, in 0..1, rgb [3, 2, 1]")
    run("encode", tmp_path / "a.npy", "-o", tmp_path / "again", "--model", "some/m")
    header, *rows = run("inspect", tmp_path)[1].splitlines()
    assert header.endswith("pixels")
    assert all(row.endswith("  5 channels, float32, in 0..1, rgb [3, 2, 1]") for row in rows)


def test_files_of_fewer_bits_than_the_model_are_remarked_on(use, run: Run, tmp_path: Path) -> None:
    use(DEEP)
    Image.new("L", (9, 8), 200).save(tmp_path / "a.png")
    said = run("encode", tmp_path / "a.png", "-o", tmp_path, "--model", "some/m")[1]
    assert "holds uint8, which cannot reach the model's range, 0..65535" in said


def test_all_slices_of_a_volume_are_latents_of_their_own(use, run: Run, tmp_path: Path) -> None:
    use(PixelFormat(1, numbers=True, dtype="int16", ranges=((-1000.0, 1000.0),)))
    volume = np.random.default_rng(0).integers(-1200, 1000, (12, 10, 3), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "scan.nii.gz")
    source, model, out = tmp_path / "scan.nii.gz", ("--model", "some/m"), tmp_path / "latents"
    said = run("encode", source, "-o", out, *model)[1]
    assert "has 3 pages, of which this is page 0" in said
    assert "has values outside of the model's range, -1000..1000, which were clipped" in said
    assert files(out) == ["scan.safetensors"]
    said = run("encode", source, "-o", out, *model, "--all-pages")[1]
    assert "encoded 3 of 3 files and pages" in said
    assert "of which" not in said
    names = [f"scan-{number:04d}.safetensors" for number in (1, 2, 3)]
    assert files(out) == [*names, "scan.safetensors"]
    codec = Codec.load("some/m")
    for page, name in enumerate(names):
        (image,) = codec.decode([read_latents(out / name)])
        assert np.array_equal(image, read_raster(source, page=page).values.clip(-1000, 1000))
    assert read_latents(out / names[2]).versions["page"] == "2"
    before = state(out)
    assert "3 were there already" in run("encode", source, "-o", out, *model, "--all-pages")[1]
    assert state(out) == before
    run("encode", source, "-o", tmp_path / "other", *model, "--axis", 0)
    assert (describe(tmp_path / "other" / "scan.safetensors")["width"]) == 3


def test_what_has_no_effect_or_cannot_hold_the_images_is_refused(use, run: Run, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "in.tif", np.zeros((8, 9, 3), np.float32), photometric="minisblack", planarconfig="contig"
    )
    Image.new("RGB", (9, 8)).save(tmp_path / "in.png")
    words = ("reconstruct", tmp_path / "in.tif", "-o", tmp_path / "out", "--model", "some/m")
    use(BANDS)
    for more, message in (
        (("--suffix", ".png"), ".png files cannot hold the images of the model (5 channels, float32 in 0..1)"),
        (("--color", "keep"), "--color keep: lossless is a model of numbers, which have no colours"),
        (("--accept-damaged",), "--accept-damaged: lossless is a model of numbers"),
    ):
        status, _, (line,) = run(*words, *more)
        assert (status, message in line) == (2, True), line
    status, _, (line,) = run(*words)
    assert (status, "it has 3 channels, the model takes images of 5 channels" in line) == (1, True)
    use(RGBA)
    for more, message in (
        (("--all-pages",), "--all-pages: lossless is a model of pictures"),
        (("--axis", 1), "--axis 1: lossless is a model of pictures"),
    ):
        status, _, (line,) = run(*words, *more)
        assert (status, message in line) == (2, True), line


def test_pictures_of_the_latent_space_show_the_stated_channels(use, run: Run, tmp_path: Path) -> None:
    use(BANDS)
    for name, level in (("a", 0.0), ("b", 1.0)):
        image = np.zeros((8, 10, 5), np.float32)
        image[:, :, 2] = level  # the third channel is red
        np.save(tmp_path / f"{name}.npy", image)
    ends, model = (tmp_path / "a.npy", tmp_path / "b.npy"), ("--model", "some/m")
    said = run("interpolate", *ends, "-o", tmp_path / "strip.png", "--steps", 3, *model)[1]
    assert said.endswith("strip.png as previews: channels 3, 2, 1 of 5 in 8 bits\n")
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip[0, [0, 12, 24]].tolist() == [[0, 0, 0], [128, 0, 0], [255, 0, 0]]
    assert run("sample", "-o", tmp_path / "draws.png", "--count", 4, "--size", 8, *model)[0] == 0
    assert np.asarray(Image.open(tmp_path / "draws.png")).shape == (18, 18, 3)
