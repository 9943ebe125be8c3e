"""`latent-ae attribute` and `edit`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_ae.cli import main
from latent_ae.inference import Codec
from tests.cli.conftest import FP32, Run


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """15 dark and 15 bright images of 8x8 pixels."""
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 150)):
        (tmp_path / name).mkdir()
        for number in range(15):
            pixels = generator.integers(low, low + 100, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path / "dark", tmp_path / "bright"


def test_from_two_folders_to_an_edited_image(
    models: Path, folders: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    dark, bright = folders
    out, report = tmp_path / "light.safetensors", tmp_path / "report.json"
    words = ("--from", dark, "--to", bright, "-o", out, "--json", report, *FP32)
    status, said, errors = run("attribute", models / "kl", *words)
    assert (status, errors) == (0, [])
    first, second = said.splitlines()
    assert first == f"wrote {out}: from dark (8 images) to bright (8), for images of 8x8 pixels"
    assert second.startswith("separates: AUC 1.000 on 7 + 7 held-out images, chance gives 0.5")
    measured = json.loads(report.read_text())
    assert measured["separates"]
    assert measured["auc"] == 1.0
    assert measured["from"] == {"name": "dark", "images": 8}
    edit = ("--add", out, "--model", models / "kl", "--precision", "exact", "-o", tmp_path / "edited.png")
    assert run("edit", dark / "0.png", *edit, "--strength", "-0.5", "0", "1")[0] == 0
    strip = np.asarray(Image.open(tmp_path / "edited.png")).astype(int)
    assert strip.shape == (8, 3 * 8 + 2 * 2)
    codec = Codec.load(str(models / "kl"), precision="exact")
    kept = codec.reconstruct([np.asarray(Image.open(dark / "0.png"))[:, :, None]])[0][:, :, 0]
    assert np.array_equal(strip[:, 10:18], kept)
    assert not np.array_equal(strip[:, :8], strip[:, -8:])


def test_classes_of_a_data_source_that_do_not_separate_are_said_not_to(models: Path, tmp_path: Path, run: Run) -> None:
    """A class without a difference: an encoder that was never trained, and few images."""
    words = ("--data.source", "digits", "--count", 4, "-o", tmp_path / "a.safetensors", *FP32)
    status, said, _ = run("attribute", models / "kl", "--from-label", 3, "--to-label", 8, *words)
    assert status == 0
    assert "from 3 (4 images) to 8 (4), for images of 32x32 pixels" in said
    assert "unknown whether it separates: 4 + 4 held-out images are too few" in said


def test_an_attribute_without_meaning_is_called_so_where_it_is_used(
    models: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(3)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for number in range(40):
            Image.fromarray(generator.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / name / f"{number}.png")
    out = tmp_path / "a.safetensors"
    folders = ("--from", tmp_path / "one", "--to", tmp_path / "other", "--any-size")
    status, said, _ = run("attribute", models / "kl", *folders, "-o", out, *FP32)
    assert status == 0
    assert "for images of any size\ndoes not separate: AUC" in said
    image = tmp_path / "large.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(image)
    words = ["edit", image, "--add", out, "--model", models / "kl", *FP32, "-o", tmp_path / "edited.png"]
    assert main([str(word) for word in words]) == 0
    assert f"{out} does not separate: AUC" in capsys.readouterr().err
    with Image.open(tmp_path / "edited.png") as edited:
        assert edited.size == (30, 20)


def test_the_model_is_found_by_the_attribute(
    models: Path, folders: tuple[Path, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark, bright = folders
    out = tmp_path / "a.safetensors"
    run("attribute", models / "kl", "--from", dark, "--to", bright, "-o", out, *FP32)
    monkeypatch.chdir(models)
    assert run("edit", dark / "0.png", "--add", out, "-o", tmp_path / "x.png", *FP32)[0] == 0
    monkeypatch.chdir(tmp_path)
    status, _, (line,) = run("edit", dark / "0.png", "--add", out, "-o", tmp_path / "x.png", *FP32)
    assert status == 2
    assert "the attribute is of the model 'kl', and no model in this folder" in line


def test_what_a_user_must_mend_is_a_line_and_status_2(
    models: Path, folders: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    dark, bright = folders
    vector = tmp_path / "a.safetensors"
    kl = models / "kl"
    assert run("attribute", kl, "--from", dark, "--to", bright, "-o", vector, *FP32)[0] == 0
    run("encode", dark / "0.png", "-o", tmp_path / "latents", "--model", kl, *FP32)
    image, large, png = dark / "0.png", tmp_path / "large.png", ("-o", tmp_path / "x.png")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(large)
    out, both = ("-o", tmp_path / "b.safetensors"), ("--from", dark, "--to", bright)
    (tmp_path / "empty").mkdir()
    digits = ("--data.source", "digits")
    for words, message in [
        (("attribute", kl, "--from", dark, "--to", dark, *out), "15 images are on both sides, among them"),
        (("attribute", kl, "--from", dark, "--to", tmp_path / "empty", *out), "empty holds no files that end in"),
        (("attribute", kl, "--from", dark, "--to", tmp_path / "gone", *out), "gone does not exist"),
        (("attribute", kl, "--from", dark, *out), "give both sides alike: --from DIR --to DIR, or"),
        (("attribute", kl, *both, "--to-label", "8", *out), "give both sides alike"),
        (("attribute", kl, *both, *out, *digits), "--data.source has no effect on attribute of two folders"),
        (("attribute", kl, *both, "-o", tmp_path / "x.png"), "the name must end in .safetensors"),
        (("attribute", models / "vq", *both, *out), "has a codebook, and attributes are of continuous latents"),
        (("attribute", kl, "--from-label", "3", "--to-label", "3", *out), "are both 3: give two classes"),
        (("attribute", kl, "--from-label", "3", "--to-label", "x", *out, *digits), "no class 'x': there are 0, 1"),
        (("attribute", kl, "--from-label", "3", "--to-label", "8", *out), "no run's settings say which images"),
        (
            ("attribute", kl, "--from-label", "3", "--to-label", "8", *out, *digits, "--evaluation.size", "8"),
            "--evaluation.size has no effect on attribute",
        ),
        (("edit", image, "--add", vector, *png, "--model", models / "other"), "the model's encoder is"),
        (("edit", large, "--add", vector, *png, "--model", kl), "for images of 8x8 pixels, the image has 30x20"),
        (("edit", image, "--add", tmp_path / "latents/0.safetensors", *png, "--model", kl), "is not an attribute file"),
        (("edit", image, "--add", tmp_path / "gone.safetensors", *png), "gone.safetensors does not exist"),
        (("edit", image, "--add", vector, "-o", tmp_path / "x.jpg", "--model", kl), "the name must end in .png"),
    ]:
        status, said, errors = run(*words, *FP32)
        assert (status, said) == (2, ""), (words, errors)
        (line,) = errors
        assert message in line


def test_a_strength_is_a_number(tmp_path: Path, run: Run) -> None:
    with pytest.raises(SystemExit):
        run("edit", "a.png", "--add", "b.safetensors", "-o", "c.png", "--strength", "nan")
