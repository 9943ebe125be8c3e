"""Every bottleneck and reconstruction loss, and one of the test's own, through a run to its model card."""

from pathlib import Path
from typing import Literal

import pytest
from torch import Tensor, nn

from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.bottlenecks.fsq import FSQConfig
from latent_ae.training.losses import RECONSTRUCTION
from tests.program.running import arguments
from tests.program.variants import NO_KL

SETTINGS = {
    "fsq": ["--bottleneck.levels", "4", "3"],
    "rounding": ["--bottleneck.levels", "4", "3"],
    **{kind: ["--bottleneck.codebook_size", "8"] for kind in ("vq", "ema_vq", "gumbel")},
}


class RoundingConfig(FSQConfig):
    """rounding: a kind that only this test has."""

    kind: Literal["rounding"] = "rounding"
    title = "An autoencoder of this test"


class Cubic(nn.Module):
    """A loss that only this test has."""

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return (reconstruction - target).abs().pow(3).mean(dim=(1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*BOTTLENECKS, "rounding"])
def test_a_bottleneck_comes_to_its_model_card(main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setitem(BOTTLENECKS, "rounding", RoundingConfig)
    assert main(arguments(tmp_path, 2, *NO_KL, "--bottleneck.kind", kind, *SETTINGS.get(kind, []))) == 0
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert BOTTLENECKS[kind].title in card
    assert f"kind: {kind}" in card


@pytest.mark.slow
@pytest.mark.parametrize("loss", [*RECONSTRUCTION, "cubic"])
def test_a_reconstruction_loss_comes_to_its_model_card(
    main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: str
) -> None:
    monkeypatch.setitem(RECONSTRUCTION, "cubic", Cubic)
    assert main(arguments(tmp_path, 2, "--loss.reconstruction", loss)) == 0
    assert f"reconstruction: {loss}" in (tmp_path / "run" / "model" / "README.md").read_text()
