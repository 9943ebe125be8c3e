"""`latent-ae interpolate` and `sample`: pictures of the latent space."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderKL, DiTPipeline
from PIL import Image, ImageOps, ImageSequence

from latent_ae.cli import main
from latent_ae.inference import Codec
from latent_ae.io.image import open_image, to_uint8
from latent_ae.priors.diffusion import DiffusionConfig, build_network, build_scheduler
from latent_ae.randomness import torch_generator
from tests.cli.conftest import Run
from tests.data.images import noise_image

GAP = 2


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    """Two images of 13x11 pixels."""
    for seed, name in enumerate("ab"):
        noise_image(seed, 11, 13).save(tmp_path / f"{name}.png")
    return tmp_path / "a.png", tmp_path / "b.png"


def reconstructions(model: Path, files: tuple[Path, Path]) -> list[np.ndarray]:
    codec = Codec.load(str(model), precision="exact")
    return codec.reconstruct([to_uint8(open_image(file), codec.channels) for file in files])


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_strip_goes_from_one_reconstruction_to_the_other(
    kind: str, models: Path, ends: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    model = ("--model", models / kind, "--precision", "exact")
    status, said, errors = run("interpolate", *ends, "-o", tmp_path / "strip.png", "--steps", "4", *model)
    assert (status, said, errors) == (0, f"wrote 4 images into {tmp_path / 'strip.png'}\n", [])
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (13, 4 * 11 + 3 * GAP)
    first, last = (pixels[:, :, 0] for pixels in reconstructions(models / kind, ends))
    assert np.array_equal(strip[:, :11], first)
    assert np.array_equal(strip[:, -11:], last)
    assert not np.array_equal(strip[:, 11 + GAP : 22 + GAP], first)


def test_latent_files_are_ends_as_good_as_images(
    models: Path, ends: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    model = ("--model", models / "kl", "--precision", "exact")
    run("encode", ends[1], "-o", tmp_path, *model)
    run("interpolate", *ends, "-o", tmp_path / "images.png", *model)
    run("interpolate", ends[0], tmp_path / "b.safetensors", "-o", tmp_path / "mixed.png", *model)
    assert (tmp_path / "images.png").read_bytes() == (tmp_path / "mixed.png").read_bytes()
    run("interpolate", *ends, "-o", tmp_path / "spherical.png", "--spherical", *model)
    assert (tmp_path / "images.png").read_bytes() != (tmp_path / "spherical.png").read_bytes()


def test_an_end_of_another_size_is_cut_as_in_the_app(
    models: Path, ends: tuple[Path, Path], tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second image, or the one that is no latent file."""
    noise_image(3, 40, 30).save(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as large:
        ImageOps.fit(large.convert("L"), (11, 13), Image.Resampling.LANCZOS).save(tmp_path / "cut.png")
    words = ["--model", str(models / "kl"), "--precision", "exact", "--steps", "3", "-o"]
    run("encode", ends[0], "-o", tmp_path, "--model", models / "kl", "--precision", "exact")
    for first, second, cut in [
        ("a.png", "large.png", ("a.png", "cut.png")),
        ("large.png", "a.safetensors", ("cut.png", "a.png")),
    ]:
        files = [str(tmp_path / name) for name in (first, second)]
        assert main(["interpolate", *files, *words, str(tmp_path / "x.png")]) == 0
        assert f"{tmp_path / 'large.png'} is scaled and cropped to 13x11 pixels" in capsys.readouterr().err
        assert main(["interpolate", *[str(tmp_path / name) for name in cut], *words, str(tmp_path / "y.png")]) == 0
        assert "cropped" not in capsys.readouterr().err
        assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_an_animation_has_every_picture(
    suffix: str, models: Path, ends: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    out = tmp_path / f"strip.{suffix}"
    model = ("--model", models / "kl", "--precision", "exact")
    assert run("interpolate", *ends, "-o", out, "--animate", "--steps", "3", *model)[0] == 0
    with Image.open(out) as image:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(image)]
        assert image.info.get("loop") == 0
    assert len(frames) == 3
    first, last = (pixels[:, :, 0] for pixels in reconstructions(models / "kl", ends))
    assert np.array_equal(frames[0], first)
    assert np.array_equal(frames[2], last)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_draws_follow_from_the_seed_alone(kind: str, models: Path, tmp_path: Path, run: Run) -> None:
    def drawn(*options: object) -> np.ndarray:
        assert run("sample", "-o", tmp_path / "draws.png", "--model", models / kind, *options)[0] == 0
        return np.asarray(Image.open(tmp_path / "draws.png"))

    five = drawn("--count", 5, "--precision", "exact")
    assert five.shape == (2 * 16 + GAP, 3 * 16 + 2 * GAP)  # the models were built for 16 pixels
    assert np.array_equal(five, drawn("--count", 5, "--precision", "exact"))
    assert not np.array_equal(five, drawn("--count", 5, "--precision", "exact", "--seed", 1))
    assert drawn("--count", 1, "--size", 24, "--precision", "exact").shape == (24, 24)


def test_without_temperature_all_draws_are_one(models: Path, tmp_path: Path, run: Run) -> None:
    words = ("-o", tmp_path / "draws.png", "--model", models / "kl", "--precision", "exact", "--count", 2)
    assert run("sample", *words, "--temperature", 0)[0] == 0
    pair = np.asarray(Image.open(tmp_path / "draws.png"))
    assert np.array_equal(pair[:, :16], pair[:, -16:])


def test_what_a_user_must_mend_is_a_line_and_status_2(
    models: Path, ends: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    noise_image(3, 40, 30).save(tmp_path / "large.png")
    large = tmp_path / "large.png"
    run("encode", ends[0], "-o", tmp_path / "other", "--model", models / "other", "--precision", "fp32")
    run("encode", ends[0], large, "-o", tmp_path / "kl", "--model", models / "kl", "--precision", "fp32")
    sizes = tmp_path / "kl" / "a.safetensors", tmp_path / "kl" / "large.safetensors"
    other = tmp_path / "other" / "a.safetensors"
    out, model = ("-o", tmp_path / "x.png"), ("--model", models / "kl", "--precision", "fp32")
    vq = ("--model", models / "vq", "--precision", "fp32")
    for words, message in [
        (("interpolate", *sizes, *out, *model), "images of 13x11 and 30x40 pixels have latents of different"),
        (("interpolate", ends[0], other, *out, *model), "these latents are of the encoder"),
        (("interpolate", ends[0], tmp_path / "gone.png", *out, *model), "gone.png does not exist"),
        (("interpolate", ends[0], tmp_path / "gone.latent", *out, *model), "gone.latent does not exist"),
        (
            ("interpolate", *ends, *out, *model, "--steps", "1"),
            "--steps must be at least 2 (both end images count), got 1",
        ),
        (
            ("interpolate", *ends, "-o", tmp_path / "x.gif", *model),
            "must end in .png; with --animate, .webp and .gif too",
        ),
        (("interpolate", *ends, "-o", tmp_path / "x.jpg", "--animate", *model), "must end in .png or .webp or .gif"),
        (("sample", "-o", tmp_path / "no" / "x.png", *model), f"the folder {tmp_path / 'no'} does not exist"),
        (("sample", *out, *model, "--size", "15"), "--size 15 is not a multiple of the model's factor 2: take 16"),
        (("sample", *out, *vq, "--temperature", "1"), "--temperature 1:"),
    ]:
        status, said, errors = run(*words)
        assert (status, said) == (2, "")
        (line,) = errors
        assert message in line
    assert not list(tmp_path.glob("x.*"))


@pytest.fixture
def pipeline(models: Path, tmp_path: Path) -> Path:
    """A run on latents, with a tiny pipeline of two classes."""
    network = build_network(DiffusionConfig(width=8, depth=1, head_width=4), channels=2, side=8)
    autoencoder = AutoencoderKL.from_pretrained(models / "kl")
    made = DiTPipeline(network, autoencoder, build_scheduler(), id2label={0: "dog", 1: "cat"})
    made.register_to_config(id2label={0: "dog", 1: "cat"})
    made.save_pretrained(tmp_path / "diffusion" / "pipeline")
    (tmp_path / "diffusion" / "config.yaml").write_text("name: diffusion\n")
    return tmp_path / "diffusion" / "pipeline"


def test_a_pipeline_draws_with_its_own_diffusion_model(pipeline: Path, models: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "draws.png"
    status, said, errors = run("sample", "--model", pipeline, "-o", out, "--count", "4", "--seed", "3")
    assert (status, errors) == (0, [])
    how = "drawn by its DiTTransformer2DModel, 50 steps, of 2 classes, guidance 1.5"
    assert said == f"wrote 4 images into {out}, {how}\n"
    stock = DiTPipeline.from_pretrained(pipeline)
    stock.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 1.5, "num_inference_steps": 50, "generator": torch_generator(3, "draws")}
    expected = np.rint(stock(class_labels=[0, 1, 0, 1], output_type="np", **options).images * 255)
    grid = np.asarray(Image.open(out).convert("L"))
    first = grid[:16, :16]
    assert np.abs(first.astype(int) - expected[0, :, :, 0]).max() <= 1
    assert np.abs(grid[-16:, -16:].astype(int) - expected[3, :, :, 0]).max() <= 1
    assert run("sample", "--model", pipeline.parent, "-o", tmp_path / "run.png", "--count", "4", "--seed", "3")[0] == 0
    assert (tmp_path / "run.png").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("option", [("--size", "16"), ("--temperature", "1"), ("--prior", "x"), ("--tile", "8")])
def test_what_a_pipeline_fixes_is_refused(option: tuple[str, str], pipeline: Path, tmp_path: Path, run: Run) -> None:
    status, _, errors = run("sample", "--model", pipeline, "-o", tmp_path / "draws.png", *option)
    assert status == 2
    assert errors == [
        f"{option[0]} has no effect on the pipeline {pipeline}, which draws with its own diffusion model: leave it "
        f"out, or give --model {pipeline / 'vae'}"
    ]


def test_other_commands_use_the_autoencoder_of_a_pipeline_and_say_so(
    pipeline: Path, models: Path, ends: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["encode", str(ends[0]), "-o", str(tmp_path / "latents"), "--precision", "exact", "--model"]
    assert main([*words, str(pipeline)]) == 0
    assert f"{pipeline} is a pipeline: its autoencoder, {pipeline / 'vae'}, is used" in capsys.readouterr().err
    assert Codec.load(str(pipeline)).identity == Codec.load(str(models / "kl")).identity
