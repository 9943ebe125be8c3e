"""What a hierarchical prior is shown and minimises; the prior as a folder, and its pictures."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal

from latent_ae.export.proof import ProofFailed
from latent_ae.latent_dataset import LatentDataset
from latent_ae.models.hierarchical_prior import HierarchicalPrior, HierarchyTerms
from latent_ae.models.prior_loading import load_prior
from latent_ae.priors import hierarchy
from latent_ae.priors.hierarchy import (
    LEVELS,
    Hierarchy,
    HierarchyConfig,
    Measured,
    beta_at,
    ladder_loss,
    level_noise,
    measure,
)
from latent_ae.priors.prior import SAMPLES, Samples
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


def of(prior: HierarchicalPrior, source: LatentSource, *, seed: int = 0) -> Hierarchy:
    return Hierarchy(prior, source, seed, HierarchyConfig())


def tiles(grid: np.ndarray, side: int = 16) -> list[list[bytes]]:
    step = side + GAP
    return [
        [grid[y : y + side, x : x + side].tobytes() for x in range(0, grid.shape[1], step)]
        for y in range(0, grid.shape[0], step)
    ]


def test_draws_are_all_different_and_follow_from_the_seed(prior: HierarchicalPrior, source: LatentSource) -> None:
    grid = of(prior, source).draw(prior)
    assert np.array_equal(grid, of(prior, source).draw(prior))
    assert not np.array_equal(grid, of(prior, source, seed=1).draw(prior))
    assert len({tile for row in tiles(grid) for tile in row}) == 8 * 16


def test_the_lower_a_row_of_levels_the_more_its_draws_share(prior: HierarchicalPrior, source: LatentSource) -> None:
    grid = of(prior, source).levels_grid(prior)
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
    monkeypatch.setattr(hierarchy, "_BATCH", 3)
    source.rows.set_epoch(8)
    pieces = measure(prior, source.rows, seed=0)
    assert pieces.rows == whole.rows == 10
    assert pieces.kl == pytest.approx(whole.kl, rel=1e-4)
    assert pieces.saved == pytest.approx(whole.saved, rel=1e-4)
    monkeypatch.setattr(hierarchy, "_MEASURED", 4)
    assert measure(prior, source.rows, seed=0).rows == 4


def test_the_folder_holds_the_prior_its_pictures_and_a_card(
    prior: HierarchicalPrior, source: LatentSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hierarchy, "measure", lambda *_, **__: Measured(10, (1.234, 0.0, 3.0, 4.0), 5.678))
    made = of(prior, source)
    card = made.card(prior, name="mine", steps=7)
    assert "| 1 | 2 x 1x1 | 1.23 |\n| 2 | 2 x 2x2 | 0.00 |\n| 3 | 2 x 4x4 | 3.00 |" in card
    assert "5.68 nats an image lower" in card
    assert source.identity in card
    made.write(prior, tmp_path / "prior", name="mine", steps=7)
    assert load_prior(str(tmp_path / "prior")).encoder_identity == source.identity
    assert (tmp_path / "prior" / "README.md").read_text() == card
    for name, picture in ((SAMPLES, made.draw(prior)), (LEVELS, made.levels_grid(prior))):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "prior" / name)), picture[:, :, 0])


def test_a_prior_that_comes_back_changed_is_not_left_there(
    prior: HierarchicalPrior, source: LatentSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str) -> HierarchicalPrior:
        loaded = load_prior(name)
        loaded.conv_out.bias.data[0] += 1e-3
        return loaded

    monkeypatch.setattr(hierarchy, "load_prior", changed)
    with pytest.raises(ProofFailed, match="has other weights than the one in memory"):
        of(prior, source).write(prior, tmp_path / "prior", name="mine", steps=7)
    assert not list(tmp_path.iterdir())


def samples(source: LatentSource, seed: int = 0) -> Samples:
    return Samples(source.rows, partial(level_noise, values=50), kind="hierarchy", seed=seed)


def test_a_sample_follows_from_the_seed_and_its_number(source: LatentSource) -> None:
    one, again = samples(source)[13], samples(source)[13]
    assert torch.equal(one.latents, again.latents)
    assert torch.equal(one.noise, again.noise)
    assert one.noise.shape == (50,)
    for other in (samples(source)[14], samples(source, seed=1)[13]):
        assert not torch.equal(one.noise, other.noise)


def test_an_epoch_shows_every_row_once_drawn_anew_and_raw(source: LatentSource, made: Path) -> None:
    rows, shown = LatentDataset(made / "latents", seed=0), samples(source)
    for epoch in (0, 1):
        rows.set_epoch(epoch)
        expected = {tuple(row["latents"].flatten().tolist()) for row in rows}
        found = [shown[number].latents for number in range(10 * epoch, 10 * epoch + 10)]
        assert {tuple(latents.flatten().tolist()) for latents in found} == expected
    assert not torch.equal(shown[0].latents, shown[10].latents)


def terms() -> HierarchyTerms:
    """Two images, three levels."""
    kl = torch.tensor([[0.5, 2.0, 6.0], [1.5, 0.0, 4.0]], requires_grad=True)
    return HierarchyTerms(torch.tensor([10.0, 30.0]), kl, torch.zeros(2, 3))


def test_the_loss_is_the_bound_per_value() -> None:
    found = ladder_loss(terms(), beta=1.0, free_nats=0.0, values=4)
    assert found["loss"].item() == (10 + 8.5 + 30 + 5.5) / 2 / 4
    assert float(found["bound_nats"]) == (10 + 8.5 + 30 + 5.5) / 2
    assert [float(found[f"kl_level_{level}"]) for level in (1, 2, 3)] == [1.0, 1.0, 5.0]
    assert not any(found[name].requires_grad for name in found if name != "loss")


def test_beta_weighs_the_kl_alone_and_the_bound_stays_what_it_is() -> None:
    found = ladder_loss(terms(), beta=0.5, free_nats=0.0, values=1)
    assert found["loss"].item() == (10 + 30 + 0.5 * 14) / 2
    assert float(found["bound_nats"]) == 27


def test_free_nats_hold_each_level_of_each_image_by_itself() -> None:
    given = terms()
    found = ladder_loss(given, beta=1.0, free_nats=1.0, values=1)
    assert found["loss"].item() == (10 + 1 + 2 + 6 + 30 + 1.5 + 1 + 4) / 2
    found["loss"].backward()
    assert given.kl.grad is not None
    assert given.kl.grad.tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5]]


@pytest.mark.parametrize(("step", "beta"), [(0, 0.0), (75, 0.25), (300, 1.0), (301, 1.0)])
def test_beta_rises_to_one(step: int, beta: float) -> None:
    assert beta_at(step, 300) == beta


def test_without_a_warm_up_beta_is_one() -> None:
    assert beta_at(0, 0) == 1
