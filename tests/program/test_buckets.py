"""Runs over images of several shapes: each update sees one of them, and resuming and sharing out stay exact."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from latent_ae.data import Batch
from latent_ae.training.data import TrainingData
from tests.data.images import noise_image, write_images
from tests.program.running import arguments, assert_same_bits, metrics, state

pytestmark = pytest.mark.slow  # whole runs


SHAPES = {"wide": (60, 36), "square": (40, 40), "high": (30, 50)}
SIZES = {(24, 40), (32, 32), (40, 24)}  # of about 32x32 pixels, in steps of 8, up to an aspect ratio of 2
STEPS = 11  # an epoch is of six or seven
BUCKETS = [
    *("--data.source", "folder", "--data.heldout_share", "0.1", "--data.buckets", "true", "--data.resolution", "32"),
    *("--data.bucket_multiple", "8", "--data.crop", "random", "--train.schedule", "constant"),
]
REGULARISED = ["--loss.latent_noise", "0.1", "--loss.equivariance_share", "0.5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(18):
        for name, (width, height) in SHAPES.items():
            noise_image(seed, width, height).save(folder / f"{name}{seed}.png")
    return folder


def bucketed(folder: Path, data: Path, steps: int, *more: str) -> list[str]:
    return arguments(folder, steps, *BUCKETS, "--data.path", str(data), *more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, train_module: ModuleType, data: Path) -> Path:
    """A run with noise on the latents and transforms of them, that never stops."""
    folder = tmp_path_factory.mktemp("whole")
    assert train_module.main(bucketed(folder, data, STEPS, *REGULARISED)) == 0
    return folder


def test_every_update_has_one_size_and_the_run_has_several(
    data: Path, main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    own = TrainingData.updates

    def watched(self: TrainingData, *place: object) -> Iterator[list[Batch]]:
        for batches in own(self, *place):
            shapes.append([tuple(batch.pixels.shape) for batch in batches])
            yield batches

    monkeypatch.setattr(TrainingData, "updates", watched)
    assert main(bucketed(tmp_path, data, STEPS, "--train.accumulation", "2")) == 0
    assert len(shapes) == STEPS
    assert all(one == other for one, other in shapes)
    assert {shape[:2] for step in shapes for shape in step} == {(4, 1)}
    assert {shape[2:] for step in shapes for shape in step} == SIZES
    assert all(line["grad_norm"] > 0 for line in metrics(tmp_path))


def test_stopped_in_the_middle_of_an_epoch_and_gone_on_with(whole: Path, data: Path, main, tmp_path: Path) -> None:
    for steps in (4, STEPS):
        assert main(bucketed(tmp_path, data, steps, *REGULARISED)) == 0
    assert metrics(tmp_path) == metrics(whole)
    assert_same_bits(state(tmp_path, STEPS), state(whole, STEPS))


def test_micro_batches_change_nothing_but_rounding(data: Path, main, tmp_path: Path) -> None:
    # As in test_ranks.py, where micro-batches of processes and of accumulation are shown to be the same.
    for count in ("1", "4"):
        more = ["--train.learning_rate", "1e-4", "--train.accumulation", count]
        assert main(bucketed(tmp_path / count, data, 6, *REGULARISED, *more)) == 0
    ours, theirs = state(tmp_path / "4", 6), state(tmp_path / "1", 6)
    for name, tensor in theirs.items():
        if name.startswith(("weights", "ema")):
            torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0)
    for one, other in zip(metrics(tmp_path / "4"), metrics(tmp_path / "1"), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_noise_and_transforms_have_an_effect(whole: Path, data: Path, main, tmp_path: Path) -> None:
    assert main(bucketed(tmp_path, data, 2)) == 0
    assert metrics(tmp_path)[0]["reconstruction"] != metrics(whole)[0]["reconstruction"]
    settings = yaml.safe_load((whole / "run" / "config.yaml").read_text())["loss"]
    assert (settings["latent_noise"], settings["equivariance_share"]) == (0.1, 0.5)
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in metrics(whole))


def test_an_image_without_a_readable_header_is_listed_before_it_is_met(main, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    # Of 20x16 pixels: buckets enlarge them, a random square crop would be too small.
    write_images(folder, [f"{number}.png" for number in range(30)])
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:12])
    assert main(bucketed(tmp_path, folder, 2, "--data.max_bad_share", "0.1")) == 0
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "7.png"


GAN = ["--adversarial.loss", "hinge", "--adversarial.width", "4"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--data.resolution", "36", "--data.bucket_multiple", "9"],
            "data.bucket_multiple 9 is not a multiple of the model's factor 2",
        ),
        (["--data.bucket_multiple", "24"], "data.resolution 32 must be a multiple of the buckets' 24"),
        (
            ["--data.scale", "1", "2"],
            "data.scale has no effect with data.buckets, which cut by themselves: leave it out",
        ),
        (["--data.buckets", "false"], "data.bucket_multiple has an effect only with data.buckets true"),
        # What would else come up at the first update with such a size.
        (["--data.bucket_max_aspect", "4", *GAN], "a discriminator of 3 layers needs sides of at least 24 pixels, and"),
        (["--loss.equivariance_share", "0.1", *GAN], "bring them down to 6: lower adversarial.layers"),
        (
            ["--loss.equivariance_share", "0.1", "--data.resolution", "8"],
            "loss.perceptual random_features needs sides of at least 4 pixels, and data.buckets or",
        ),
    ],
)
def test_settings_that_do_not_fit(
    more: list[str], message: str, main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_images(tmp_path / "data", [f"{number}.png" for number in range(30)])
    assert main(bucketed(tmp_path, tmp_path / "data", 2, *more)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "run").exists()
