"""What the network is shown."""

from pathlib import Path

import torch

from latent_ae.latent_dataset import LatentDataset
from latent_ae.priors.diffusion import Sample, Samples
from latent_ae.priors.dit import NULL_CLASS
from latent_ae.priors.source import LatentSource


def samples(source: LatentSource, *, label_dropout: float = 0.0, seed: int = 0) -> Samples:
    return Samples(source.rows, scaling_factor=0.5, label_dropout=label_dropout, seed=seed)


def same(first: Sample, second: Sample) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_sample_follows_from_the_seed_and_its_number(source: LatentSource) -> None:
    assert same(samples(source)[13], samples(source)[13])
    assert not torch.equal(samples(source)[13].noise, samples(source)[14].noise)
    assert not torch.equal(samples(source)[13].noise, samples(source, seed=1)[13].noise)


def test_an_epoch_shows_every_row_once_drawn_anew_times_the_scale_and_without_the_shift(
    source: LatentSource, made: Path
) -> None:
    rows, shown = LatentDataset(made / "latents", seed=0), samples(source)
    for epoch in (0, 1):
        rows.set_epoch(epoch)
        expected = {tuple((row["latents"] * 0.5).flatten().tolist()): row["label"] for row in rows}
        found = [shown[number] for number in range(10 * epoch, 10 * epoch + 10)]
        assert {tuple(one.latents.flatten().tolist()): one.label for one in found} == expected
    assert not torch.equal(shown[0].latents, shown[10].latents)


def test_dropped_labels_are_the_null_class(source: LatentSource) -> None:
    shown = [int(samples(source)[number].label) for number in range(10)]
    assert sorted(shown) == [0] * 5 + [1] * 5
    assert all(samples(source, label_dropout=1.0)[number].label == NULL_CLASS for number in range(10))
    half = [int(samples(source, label_dropout=0.5)[number].label) for number in range(400)]
    assert 160 < half.count(NULL_CLASS) < 240  # four standard deviations


def test_timesteps_are_spread_over_all(source: LatentSource) -> None:
    timesteps = torch.stack([samples(source)[number].timestep for number in range(400)])
    assert timesteps.min() < 20
    assert 980 < timesteps.max() <= 999
    assert abs(float(timesteps.float().mean()) - 499.5) < 4 * 289 / 20
