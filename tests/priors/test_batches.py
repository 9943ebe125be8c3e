"""The micro-batches of a prior, with the samples of a diffusion model."""

import pickle
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from latent_ae.data import training_loader
from latent_ae.data.order import numbers as order
from latent_ae.data.source import DataError
from latent_ae.latent_dataset import LatentDataset, LatentDatasetError
from latent_ae.priors.diffusion import Sample, noised
from latent_ae.priors.prior import Samples
from latent_ae.priors.source import LatentSource


def samples(rows: LatentDataset) -> Samples:
    return Samples(rows, partial(noised, scaling_factor=0.5, label_dropout=0.5), kind="denoising", seed=0)


def batches(source: LatentSource, *, rank: int = 0, world_size: int = 1, accumulation: int = 1, workers: int = 0):
    place = {"accumulation": accumulation, "workers": workers, "rank": rank, "world_size": world_size}
    made = list(loader(samples(source.rows), first_step=1, steps=4, **place))
    return [made[first : first + accumulation] for first in range(0, len(made), accumulation)]


def loader(shown: Samples, **place: int) -> Iterator[Sample]:
    return iter(training_loader(shown, collate=default_collate, batch_size=8, pin_memory=False, **place))


def same(first: Sample, second: Sample) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_processes_and_micro_batches_share_the_same_samples(source: LatentSource) -> None:
    whole = batches(source)
    assert [len(update) for update in whole] == [1, 1, 1]
    ranks = [batches(source, rank=rank, world_size=2) for rank in (0, 1)]
    halves = batches(source, accumulation=2)
    for step, (update,) in enumerate(whole):
        for pieces in ([ranks[0][step][0], ranks[1][step][0]], halves[step]):
            joined = Sample(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))
            assert same(joined, update)


def test_workers_change_nothing(source: LatentSource) -> None:
    for one, other in zip(batches(source), batches(source, workers=2), strict=True):
        assert same(one[0], other[0])


def test_a_batch_that_cannot_be_shared_is_refused(source: LatentSource) -> None:
    with pytest.raises(DataError, match=r"train\.batch_size 8 must be a multiple"):
        batches(source, world_size=3)


def test_numbers_are_made_as_they_are_asked_for(source: LatentSource, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def rank_numbers(step: int, **given: int) -> list[range]:
        asked.append(step)
        return order.rank_numbers(step, **given)

    monkeypatch.setattr("latent_ae.data.loader.rank_numbers", rank_numbers)
    given = {"accumulation": 1, "workers": 0, "rank": 0, "world_size": 1}
    next(loader(samples(source.rows), first_step=0, steps=1000, **given))
    assert set(asked) == {0}


def test_the_process_keeps_its_random_stream(source: LatentSource) -> None:
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    batches(source)
    assert torch.equal(torch.rand(()), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_cannot_be_read_is_one_line(made: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(made / "latents", tmp_path / "latents")
    # A copy opens the shards anew, as a process does that it is given to.
    damaged = pickle.loads(pickle.dumps(LatentDataset(tmp_path / "latents", seed=0)))
    for shard in (tmp_path / "latents" / "shards").glob("*.safetensors"):
        shard.write_bytes(b"damaged")
    shown = samples(damaged)
    given = {"accumulation": 1, "workers": workers, "rank": 0, "world_size": 1}
    with pytest.raises(LatentDatasetError, match=r"is not complete: shards/.* cannot be read: [^\n]*$"):
        next(loader(shown, first_step=0, steps=1, **given))
