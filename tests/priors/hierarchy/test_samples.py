"""What a hierarchical prior is shown."""

from pathlib import Path

import torch

from latent_ae.latent_dataset import LatentDataset
from latent_ae.priors.hierarchy.samples import Samples
from latent_ae.priors.source import LatentSource


def samples(source: LatentSource, seed: int = 0) -> Samples:
    return Samples(source.rows, noise_values=50, seed=seed)


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
