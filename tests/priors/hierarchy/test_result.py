"""The prior as a folder, and its pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal

from latent_ae.export.proof import ProofFailed
from latent_ae.models.hierarchical_prior import HierarchicalPrior, load_prior
from latent_ae.priors.hierarchy import result
from latent_ae.priors.hierarchy.result import LEVELS, Measured, card_text, draw_grid, levels_grid, measure, write_prior
from latent_ae.priors.settings import SAMPLES
from latent_ae.priors.source import LatentSource

GAP = 2


@pytest.fixture
def prior(source: LatentSource) -> HierarchicalPrior:
    """Moved away from its start, where levels decide nothing."""
    torch.manual_seed(0)
    made = HierarchicalPrior(channels=2, side=8, width=8, level_channels=2, encoder_identity=source.identity)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def tiles(grid: np.ndarray, side: int = 16) -> list[list[bytes]]:
    step = side + GAP
    return [
        [grid[y : y + side, x : x + side].tobytes() for x in range(0, grid.shape[1], step)]
        for y in range(0, grid.shape[0], step)
    ]


def test_draws_are_all_different_and_follow_from_the_seed(prior: HierarchicalPrior, source: LatentSource) -> None:
    grid = draw_grid(prior, source.autoencoder, seed=0)
    assert np.array_equal(grid, draw_grid(prior, source.autoencoder, seed=0))
    assert not np.array_equal(grid, draw_grid(prior, source.autoencoder, seed=1))
    assert len({tile for row in tiles(grid) for tile in row}) == 8 * 16


def test_the_lower_a_row_of_levels_the_more_its_draws_share(prior: HierarchicalPrior, source: LatentSource) -> None:
    grid = levels_grid(prior, source.autoencoder, seed=0)
    rows = np.stack([grid[y : y + 16].astype(float) for y in range(0, grid.shape[0], 16 + GAP)])
    assert len(rows) == len(prior.grids) + 1
    images = np.stack([rows[:, :, x : x + 16, 0] for x in range(0, grid.shape[1], 16 + GAP)], 1)
    quarters = images.reshape(len(rows), 4, 4, 16, 16)
    spread = quarters.std(2).mean((1, 2, 3))
    assert bool((np.diff(spread) < 0).all()), spread
    # Were all quarters of one draw, their means would differ by the noise of four: half the spread of one.
    assert quarters[-1].mean(1).std(0).mean() > 0.7 * spread[-1], "each quarter is of a draw of its own"


def test_at_the_start_nothing_is_saved_but_what_the_channels_are(source: LatentSource) -> None:
    fresh = HierarchicalPrior(channels=2, side=8, width=8)
    assert measure(fresh, source.rows, seed=0) == Measured(10, (0.0,) * 4, pytest.approx(0, abs=1e-4))
    fresh.set_statistics([0.5, -0.5], [2.0, 3.0])
    latents = torch.stack([source.rows[number]["latents"] for number in range(10)])
    own = Normal(fresh.mean, fresh.std).log_prob(latents).sum((1, 2, 3)).mean()
    normal = Normal(0, 1).log_prob(latents).sum((1, 2, 3)).mean()
    assert measure(fresh, source.rows, seed=0).saved == pytest.approx(float(own - normal), rel=1e-5)


def test_more_rows_than_a_batch_are_all_measured(
    prior: HierarchicalPrior, source: LatentSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.rows.set_epoch(7)
    whole = measure(prior, source.rows, seed=0)
    monkeypatch.setattr(result, "_BATCH", 3)
    source.rows.set_epoch(8)
    pieces = measure(prior, source.rows, seed=0)
    assert pieces.rows == whole.rows == 10
    assert pieces.kl == pytest.approx(whole.kl, rel=1e-4)
    assert pieces.saved == pytest.approx(whole.saved, rel=1e-4)
    monkeypatch.setattr(result, "_MEASURED", 4)
    assert measure(prior, source.rows, seed=0).rows == 4


def test_the_folder_holds_the_prior_its_pictures_and_a_card(
    prior: HierarchicalPrior, source: LatentSource, tmp_path: Path
) -> None:
    measured = Measured(10, (1.234, 0.0, 3.0, 4.0), 5.678)
    card = card_text(name="mine", data="digits", autoencoder="a/model", prior=prior, steps=7, measured=measured)
    assert "| 1 | 2 x 1x1 | 1.23 |\n| 2 | 2 x 2x2 | 0.00 |\n| 3 | 2 x 4x4 | 3.00 |" in card
    assert "5.68 nats an image lower" in card
    assert source.identity in card
    pixels = np.zeros((4, 4, 1), np.uint8)
    write_prior(prior, tmp_path / "prior", {SAMPLES: pixels, LEVELS: pixels + 9}, card)
    assert load_prior(str(tmp_path / "prior")).encoder_identity == source.identity
    assert (tmp_path / "prior" / "README.md").read_text() == card
    assert np.asarray(Image.open(tmp_path / "prior" / LEVELS)).max() == 9


def test_a_prior_that_comes_back_changed_is_not_left_there(
    prior: HierarchicalPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str) -> HierarchicalPrior:
        loaded = load_prior(name)
        loaded.conv_out.bias.data[0] += 1e-3
        return loaded

    monkeypatch.setattr(result, "load_prior", changed)
    with pytest.raises(ProofFailed, match="has other weights than the one in memory"):
        write_prior(prior, tmp_path / "prior", {}, "")
    assert not list(tmp_path.iterdir())
