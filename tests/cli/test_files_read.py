"""`latent-ae encode` and `reconstruct`: how files are read, what is said about it, and that the numbers add up."""

import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from latent_ae.cli import main
from latent_ae.config import ModelConfig
from latent_ae.inference import Codec
from latent_ae.inference.image_reading import read_image
from latent_ae.io.image import open_image, to_uint8
from latent_ae.io.latent_file.latents import read_latents
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.io.rasters.writing import KEY
from latent_ae.models import build_autoencoder
from tests.cli.conftest import FP32, Run, state
from tests.image_files import CASES, COLORS, ROCKET, chunk, encoded, png

READ = {name: case for name, case in CASES.items() if not case.refused}


@pytest.fixture(scope="module")
def colored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of RGB images."""
    folder = tmp_path_factory.mktemp("colored")
    build_autoencoder(ModelConfig(preset="tiny", image_channels=3), seed=0, resolution=16).save_pretrained(folder)
    return folder


def counts(line: str) -> list[int]:
    """Made, found, kept, failed, not read."""
    found = re.match(
        r"\w+ (\d+) of (\d+) files into \S+?(?:, (\d+) were there already)?(?:, (\d+) could not be used)?"
        r"(?:, (\d+) are of kinds that are not read: .*)?$",
        line,
    )
    assert found, line
    return [int(number or 0) for number in found.groups()]


def test_tasks_read_the_pixels_that_every_way_reads() -> None:
    for name, case in READ.items():
        picture = read_image(io.BytesIO(case.data), PixelFormat.picture(3))
        assert np.array_equal(picture.array, to_uint8(open_image(io.BytesIO(case.data)), 3)), name
        assert case.remark in "".join(picture.remarks), name


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_the_numbers_add_up_to_the_files_that_were_found(command: str, models: Path, photos: Path, run: Run) -> None:
    for name in ("phone.CR2", "sub/other.cr2", "scene.exr", "all.zip", "notes"):
        (photos / name).write_bytes(b"")
    (photos / "broken.png").write_bytes(b"words")
    words = (command, photos, "-o", photos, "--model", models / "kl", *FP32)
    if command == "reconstruct":  # whose PNGs would be sources of the second run
        words = (command, photos, "-o", photos / "out", "--model", models / "kl", *FP32)
    for made, kept in ((7, 0), (0, 7)):
        status, said, errors = run(*words)
        assert (status, len(errors)) == (1, 1)
        assert counts(said.strip()) == [made, 13, kept, 1, 5]
        assert said.strip().endswith("not read: .cr2 (2), .exr (1), .zip (1), no suffix (1)")


def test_a_folder_without_images_says_what_is_in_it(models: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.cr2").write_bytes(b"")
    status, _, (error,) = run("encode", tmp_path, "-o", tmp_path / "out", "--model", models / "kl", *FP32)
    assert status == 2
    assert error.endswith(": it holds .cr2 (1)")


FRAMES = {
    "GIF": {"save_all": True},
    "PNG": {"save_all": True},
    "WEBP": {"save_all": True, "lossless": True},
    "TIFF": {"save_all": True},
    "AVIF": {"save_all": True},
    "MPO": {"save_all": True},
}


@pytest.mark.parametrize("kind", FRAMES)
def test_further_frames_and_pages_are_counted(kind: str) -> None:
    first, *rest = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    picture = read_image(io.BytesIO(encoded(first, kind, append_images=rest, **FRAMES[kind])), PixelFormat.picture(3))
    assert picture.remarks == ("had 3 frames or pages, of which the first was used",)
    assert np.abs(picture.array.astype(int) - (255, 0, 0)).max() <= 8


def test_what_was_done_with_a_file_is_said_once_for_all(colored: Path, tmp_path: Path, run: Run) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(READ["Adobe RGB, PNG"].data)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    _, said, _ = run("encode", *files, "-o", tmp_path / "out", "--model", colored, *FP32)
    assert said.splitlines()[1:] == [
        f"note: 2 files had colours of Adobe RGB (1998), which were converted to sRGB ({files[0]}, {files[1]})"
    ]


def test_kept_colours_come_out_with_their_profile_and_are_made_again(colored: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.png").write_bytes(READ["Adobe RGB, PNG"].data)
    words = ("reconstruct", tmp_path / "a.png", "-o", tmp_path / "out", "--model", colored, "--precision", "exact")
    assert run(*words)[0] == 0
    with Image.open(tmp_path / "out/a.png") as image:
        assert "icc_profile" not in image.info
        converted = np.asarray(image)
    status, said, _ = run(*words, "--color", "keep")
    assert (status, counts(said.splitlines()[0])[0]) == (0, 1)
    assert "1 file has colours of Adobe RGB (1998), which were kept" in said
    with Image.open(tmp_path / "out/a.png") as image:
        assert image.info["icc_profile"] == ROCKET
        kept = np.asarray(image)
    codec = Codec.load(str(colored), precision="exact")
    assert np.array_equal(kept, codec.reconstruct([COLORS])[0])
    assert not np.array_equal(kept, converted)
    assert counts(run(*words, "--color", "keep")[1].splitlines()[0])[2] == 1


def test_latents_of_kept_colours_say_whose_they_are(colored: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.png").write_bytes(READ["Adobe RGB, PNG"].data)
    words = ("encode", tmp_path / "a.png", "-o", tmp_path / "out", "--model", colored, *FP32)
    for rule, more in (("convert", {}), ("keep", {"profile": "Adobe RGB (1998)"})):
        status, said, _ = run(*words, "--color", rule)
        assert (status, counts(said.splitlines()[0])[0]) == (0, 1)
        versions = read_latents(tmp_path / "out/a.safetensors").versions
        assert {key: versions[key] for key in ("color", "profile") if key in versions} == {"color": rule, **more}
    _, said, _ = run("decode", tmp_path / "out", "-o", tmp_path / "back", "--model", colored, *FP32)
    assert "1 file has colours of Adobe RGB (1998), which were kept: the image carries no profile" in said


def test_grey_models_have_no_colours_to_keep(models: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    words = (photos, "-o", tmp_path / "out", "--model", models / "kl", "--color", "keep", *FP32)
    for command in ("encode", "reconstruct"):
        status, _, (error,) = run(command, *words)
        assert (status, error.split(":")[0]) == (2, "--color keep")


def damaged_files() -> dict[str, tuple[bytes, str]]:
    """Files whose pixels are whole, and what is wrong with them."""
    sound = encoded(Image.fromarray(COLORS))
    text = bytearray(chunk(b"tEXt", b"Comment\0words"))
    text[-1] ^= 1
    large = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20)))
    return {
        "checksum.png": (png(COLORS, bytes(text)), "tEXt with a wrong checksum"),
        "large.png": (png(COLORS, large), "zTXt of 1 MiB or more"),
        "cut.png": (sound[:-12] + bytes(text)[:-9], "tEXt that is cut short, no end"),
        "profile.png": (png(COLORS, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3 << 20)))), "iCCP of"),
        "end.jpg": (encoded(Image.fromarray(COLORS), "JPEG")[:-2], "no end"),
        "progressive.jpg": (encoded(Image.fromarray(COLORS), "JPEG", progressive=True)[:-2], "no end"),
    }


@pytest.mark.parametrize("name", damaged_files())
def test_damage_beside_the_pixels_is_passed_over_where_that_is_asked_for(
    name: str, colored: Path, tmp_path: Path, run: Run
) -> None:
    data, damage = damaged_files()[name]
    (tmp_path / name).write_bytes(data)
    words = (tmp_path / name, "-o", tmp_path / "out", "--model", colored, *FP32)
    for command in ("encode", "reconstruct"):
        status, _, (error,) = run(command, *words)
        assert status == 1
        assert f"it is damaged ({damage}" in error
        assert "--accept-damaged" in error
        status, said, _ = run(command, *words, "--accept-damaged")
        assert status == 0
        assert f"had damage beside the pixels, which was passed over: {damage}" in said
        before = state(tmp_path / "out")
        assert counts(run(command, *words, "--accept-damaged")[1].splitlines()[0])[2] == 1
        assert state(tmp_path / "out") == before
    stem = name.partition(".")[0]
    assert damage in read_latents(tmp_path / f"out/{stem}.safetensors").versions["damage"]
    with Image.open(tmp_path / f"out/{stem}.png") as image:
        assert damage in json.loads(image.info[KEY])["damage"]


def test_much_text_is_passed_over_too(colored: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1000)
    (tmp_path / "a.png").write_bytes(png(COLORS, *[chunk(b"tEXt", b"C\0" + bytes(400))] * 3))
    words = ("encode", tmp_path / "a.png", "-o", tmp_path / "out", "--model", colored, *FP32)
    assert "tEXt beyond 1,000 bytes of text), but its pixels are whole" in run(*words)[2][0]
    assert run(*words, "--accept-damaged")[0] == 0


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_all_of_its_pixels_is_refused_whatever_is_accepted(
    progressive: bool, colored: Path, tmp_path: Path, run: Run
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", progressive=progressive)
    files = []
    for cut in (3, 6, 40, len(data) // 3, len(data) // 2):
        files.append(tmp_path / f"{cut}.jpg")
        files[-1].write_bytes(data[:-cut])
    words = ("encode", *files, "-o", tmp_path / "out", "--model", colored, "--accept-damaged", *FP32)
    status, said, _ = run(*words)
    assert (status, counts(said.strip())) == (1, [0, 5, 0, 5, 0])


def test_large_images_are_read_and_too_large_ones_refused_before_a_pixel(
    models: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (60, 50)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # PIL would take it for an attack
    words = ("reconstruct", tmp_path / "a.png", "-o", tmp_path / "out", "--model", models / "kl", *FP32)
    assert run(*words)[0] == 0
    assert counts(run(*words)[1].strip())[2] == 1  # its own output is no attack either
    monkeypatch.setattr("latent_ae.inference.image_reading.available_bytes", lambda device: 20 * 60 * 50 - 1)
    monkeypatch.setattr(Image.Image, "load", None)
    status, _, (error,) = run(*words[:3], tmp_path / "new", *words[4:])
    assert status == 1
    assert "an image of 60x50 pixels would take about" in error


def test_every_option_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("encode", "reconstruct"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        assert "--color" in told
        assert "--accept-damaged" in told
