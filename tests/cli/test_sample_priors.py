"""`latent-ae sample` with a learned prior: of latents and of codes."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_ae.cli import main
from latent_ae.inference import Codec
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.models.token_prior import build_network as build_token_network
from latent_ae.models.token_prior import load_token_prior
from tests.cli.conftest import Run
from tests.data.images import noise_image

GAP = 2


def draws(run: Run, out: Path, *options: object) -> np.ndarray:
    """The picture [H,W] or [H,W,3] that a successful call writes."""
    assert run("sample", "-o", out, *options)[0] == 0
    return np.asarray(Image.open(out))


def prior_of(model: Path, folder: Path) -> Path:
    """A prior of the model's latents, as it is before it learns."""
    identity = Codec.load(str(model)).identity
    HierarchicalPrior(channels=2, side=8, width=8, encoder_identity=identity).save_pretrained(folder)
    return folder


def test_draws_of_a_prior_follow_from_the_seed(models: Path, tmp_path: Path, run: Run) -> None:
    prior = prior_of(models / "kl", tmp_path / "prior")
    drawn = partial(draws, run, tmp_path / "draws.png", "--model", models / "kl", "--prior", prior)

    four = drawn("--count", 4)
    assert four.shape == (2 * 16 + GAP, 2 * 16 + GAP)
    assert np.array_equal(drawn("--count", 1), four[:16, :16])
    assert not np.array_equal(drawn("--count", 4, "--seed", 1), four)
    calm = drawn("--count", 2, "--temperature", 0)
    assert np.array_equal(calm[:, :16], calm[:, 16 + GAP :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "32"), "--size 32 has no effect with --prior"),
        (("--prior", "nowhere"), "cannot load a prior from nowhere: it has no config.json"),
        (("--model", "vq"), "is of the latents of the encoder"),
    ],
)
def test_what_does_not_go_with_a_prior_is_one_line(
    options: tuple[str, str], message: str, models: Path, tmp_path: Path, run: Run
) -> None:
    prior = prior_of(models / "kl", tmp_path / "prior")
    changes = {"--model": models / "kl", "--prior": prior, options[0]: options[1]}
    if options[0] == "--model":
        changes["--model"] = models / options[1]
    words = [word for pair in changes.items() for word in pair]
    status, _, errors = run("sample", "-o", tmp_path / "draws.png", *words)
    assert status == 2
    (line,) = errors
    assert message in line
    assert not (tmp_path / "draws.png").exists()


def codes_prior_of(model: Path, folder: Path) -> Path:
    """A prior of the codes of a VQModel, as it is before it learns, of two classes."""
    torch.manual_seed(0)
    codec = Codec.load(str(model))
    size = {"codebook_size": codec.codebook_size, "side": 4, "classes": (0, 3), "width": 8, "depth": 1, "heads": 1}
    build_token_network(**size, encoder_identity=codec.identity).save_pretrained(folder)
    return folder


def test_draws_of_codes_follow_from_the_seed_and_the_options(models: Path, tmp_path: Path, run: Run) -> None:
    prior = codes_prior_of(models / "vq", tmp_path / "prior")
    drawn = partial(draws, run, tmp_path / "draws.png", "--model", models / "vq", "--prior", prior)

    four = drawn("--count", 4)
    assert four.shape[:2] == (2 * 8 + GAP, 2 * 8 + GAP)
    assert np.array_equal(drawn("--count", 1, "--label", 0), four[:8, :8]), "classes come in turn"
    assert not np.array_equal(drawn("--count", 4, "--seed", 1), four)
    likely = drawn("--count", 2, "--label", 3, "--top-k", 1)
    assert np.array_equal(likely[:, :8], likely[:, 8 + GAP :])
    assert np.array_equal(drawn("--count", 2, "--label", 3, "--temperature", 0), likely)
    assert np.array_equal(drawn("--count", 2, "--label", 3, "--top-p", 0.001), likely)


def test_a_completion_keeps_the_codes_of_the_upper_half(models: Path, tmp_path: Path, run: Run) -> None:
    prior, image = codes_prior_of(models / "vq", tmp_path / "prior"), tmp_path / "image.png"
    noise_image(5, 8, 8).convert("L").save(image)
    common = ("--model", models / "vq", "--prior", prior, "-o", tmp_path / "draws.png")
    assert run("sample", *common, "--complete", image, "--count", 3, "--seed", 2)[0] == 0
    codec = Codec.load(str(models / "vq"))
    kept = codec.encode([np.asarray(Image.open(image))[..., None]])[0].tensor[0, :2].flatten()
    learned = load_token_prior(str(prior))
    codes = learned.draw([None] * 3, seed=2, options=DrawOptions(), kept=kept)
    assert torch.equal(codes[:, :2].flatten(1), kept.expand(3, -1))
    assert len(codes.unique(dim=0)) == 3
    assert codec.codebook is not None
    expected = codec.pixel_format.previews(codec.decode_tensor(codec.codebook.vectors(codes)))
    found = np.asarray(Image.open(tmp_path / "draws.png")).reshape(2 * 8 + GAP, 2 * 8 + GAP, -1)
    assert np.array_equal(found[:8, :8], expected[0])
    assert np.array_equal(found[8 + GAP :, :8], expected[2])
    noise_image(5, 10, 8).convert("L").save(image)
    status, _, errors = run("sample", *common, "--complete", image)
    assert (status, errors) == (2, [f"{image} is 8x10 pixels: expected 8x8, as the images of {prior}"])


@pytest.mark.parametrize(("option", "value"), [("--top-k", "0"), ("--top-p", "0"), ("--top-p", "1.5")])
def test_shares_and_numbers_of_codes_out_of_range_are_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sample", "-o", "draws.png", "--model", "x", option, value])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument {option}: got '{value}', expected a" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "1"), "the prior knows no class 1: it knows 0, 3"),
        (("--model", "kl"), "is of the latents of the encoder"),
        (("--prior", None), "--label has no effect without --prior: leave it out, or give a prior"),
        (("--prior", "hierarchy"), "label 3 has no effect on a hierarchical prior: leave it out"),
    ],
)
def test_what_does_not_go_with_a_prior_of_codes_is_one_line(
    options: tuple[str, str | None], message: str, models: Path, tmp_path: Path, run: Run
) -> None:
    changes: dict[str, object] = {"--label": 3, "--model": models / "vq", options[0]: options[1]}
    if options[0] == "--model":
        changes["--model"] = models / "kl"
    if options[0] == "--prior":
        changes["--model"] = models / "kl"
        if options[1] is None:
            del changes["--prior"]
        else:
            changes["--prior"] = prior_of(models / "kl", tmp_path / "prior")
    else:
        changes["--prior"] = codes_prior_of(models / "vq", tmp_path / "prior")
    words = [word for pair in changes.items() for word in pair]
    status, _, errors = run("sample", "-o", tmp_path / "draws.png", *words)
    assert status == 2
    (line,) = errors
    assert message in line
    assert not (tmp_path / "draws.png").exists()
