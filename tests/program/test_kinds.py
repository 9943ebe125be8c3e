"""Every entry of the tables, and one of the test's own, from the command line through a run to its model card."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from latent_ae.data import SOURCES, DataConfig, SourceParts
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.bottlenecks.fsq import FSQConfig
from latent_ae.training.gan.losses import ADVERSARIAL, AdversarialLoss
from latent_ae.training.losses import RECONSTRUCTION
from tests.data.images import write_images
from tests.program.running import arguments
from tests.program.variants import NO_KL, SMALL_GAN

Main = Callable[[list[str]], int]
SETTINGS = {
    "fsq": ["--bottleneck.levels", "4", "3"],
    "rounding": ["--bottleneck.levels", "4", "3", "--bottleneck.shift", "0.5"],
    **{kind: ["--bottleneck.codebook_size", "8"] for kind in ("vq", "ema_vq", "gumbel")},
}


class RoundingConfig(FSQConfig):
    """rounding: a kind that only this test has."""

    kind: Literal["rounding"] = "rounding"
    shift: float = 0.0
    """a setting that only this kind has"""
    title = "An autoencoder of this test"


class Stripes:
    """Images that only this test has."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def sample_id(self, index: int) -> str:
        return f"stripes/{self.first + index:03d}"

    def load(self, index: int) -> Image.Image:
        rows = np.arange(16, dtype=np.uint8)[:, None] * (self.first + index + 1)
        return Image.fromarray(np.tile(rows, (1, 16)))


class StripesConfig(DataConfig):
    """stripes: a source that only this test has."""

    source: Literal["stripes"] = "stripes"
    count: int = 4
    """a setting that only this source has"""

    def open(self) -> SourceParts:
        return SourceParts(Stripes(0, self.count), Stripes(self.count, self.count))


class Cubic(nn.Module):
    """A loss that only this test has."""

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return (reconstruction - target).abs().pow(3).mean(dim=(1, 2, 3))


def mean(logits: Tensor) -> Tensor:
    return logits.mean(dim=(1, 2, 3))


LINEAR = AdversarialLoss(lambda fake: -mean(fake), lambda real, fake: mean(fake) - mean(real))
"""a game that only this test has"""


def card_of(main: Main, folder: Path, *options: str) -> str:
    """The model card of a run of two updates."""
    assert main(arguments(folder, 2, *options)) == 0
    return (folder / "run" / "model" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*BOTTLENECKS, "rounding"])
def test_a_bottleneck(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setitem(BOTTLENECKS, "rounding", RoundingConfig)
    card = card_of(main, tmp_path, *NO_KL, "--bottleneck.kind", kind, *SETTINGS.get(kind, []))
    assert BOTTLENECKS[kind].title in card
    assert f"kind: {kind}" in card
    assert ("shift: 0.5" in card) == (kind == "rounding")


@pytest.mark.slow
@pytest.mark.parametrize("source", [*SOURCES, "stripes"])
def test_a_source(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    monkeypatch.setitem(SOURCES, "stripes", StripesConfig)
    options = ["--data.count", "20"] if source == "stripes" else []
    if "path" in SOURCES[source].model_fields:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        write_images(tmp_path / "images", [f"{number}.png" for number in range(20)])
        options = ["--data.path", str(tmp_path / "images"), "--data.heldout_share", "0.3"]
    if source == "stream":
        options += ["--data.streams", "2"]  # of 20 images
    card = card_of(main, tmp_path, "--data.source", source, *options)
    assert f"trained on\n`{source}` for" in card
    assert f"source: {source}" in card
    assert ("count: 20" in card) == (source == "stripes")
    assert str(tmp_path) not in card


@pytest.mark.slow
@pytest.mark.parametrize("loss", [*RECONSTRUCTION, "cubic"])
def test_a_reconstruction_loss(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: str) -> None:
    monkeypatch.setitem(RECONSTRUCTION, "cubic", Cubic)
    assert f"reconstruction: {loss}" in card_of(main, tmp_path, "--loss.reconstruction", loss)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [*ADVERSARIAL, "linear"])
def test_an_adversarial_loss(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: str) -> None:
    monkeypatch.setitem(ADVERSARIAL, "linear", LINEAR)
    assert f"loss: {loss}" in card_of(main, tmp_path, "--adversarial.loss", loss, *SMALL_GAN)


def test_help_lists_the_choices_and_the_settings_of_the_one_given(
    main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SOURCES, "stripes", StripesConfig)
    with pytest.raises(SystemExit):
        main(["--data.source", "stripes", "--help", "all"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--data.source digits|photos|folder|hub|stream|stripes" in text
    assert "a setting that only this source has" in text
