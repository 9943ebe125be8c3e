import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latent_ae.data import Batch, DataError, StreamConfig
from latent_ae.data.order.numbers import rank_numbers
from latent_ae.data.stream_loader import StreamLoader, StreamSamples, merged_state, stream_loader
from latent_ae.data.transforms import TrainingCrop
from latent_ae.io.image import to_tensor
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.randomness import numpy_generator
from tests.data.images import noise_image
from tests.data.written import encoded, write_parquets, write_tar, write_tars

pytestmark = pytest.mark.slow  # starts worker processes and reads whole epochs, many times

CROP = TrainingCrop(pixel_format=PixelFormat.picture(3), crop="random", flip=True)
SIZES = [9, 2, 14, 5, 7]  # 37 images


def samples(folder: Path, seed: int = 5, streams: int = 4, block: int = 3) -> StreamSamples:
    shards = StreamConfig(path=str(folder), heldout_share=1e-9, collected_images=1).open().stream
    return StreamSamples(shards, CROP, size=(8, 8), seed=seed, streams=streams, shuffle_block=block)


def loader(images: StreamSamples, **changes: Any) -> StreamLoader:
    arguments = {"batch_size": 8, "accumulation": 1, "rank": 0, "world_size": 1, "first_step": 0, "steps": 6}
    return stream_loader(images, **(arguments | {"workers": 0, "pin_memory": False} | changes))


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.pixels, other.pixels)
    assert (one.numbers, one.sample_ids, one.bad) == (other.numbers, other.sample_ids, other.bad)


def assert_all_equal(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert_equal(one, other)


def by_number(batches: list[Batch]) -> dict[int, tuple[str, bytes]]:
    return {
        number: (sample_id, pixels.numpy().tobytes())
        for batch in batches
        for number, sample_id, pixels in zip(batch.numbers, batch.sample_ids, batch.pixels, strict=True)
    }


# --------------------------------------------------------------------------------------------------------- batches


def test_a_sample_is_the_crop_that_its_number_names(tmp_path: Path) -> None:
    for batch in loader(samples(write_tars(tmp_path, SIZES))):
        assert batch.pixels.shape == (8, 3, 8, 8)
        for pixels, number, sample_id in zip(batch.pixels, batch.numbers, batch.sample_ids, strict=True):
            shard, row = sample_id.removeprefix("train-").split(".tar/")
            image = noise_image(100 * int(shard) + int(row))
            crop = CROP(image, (8, 8), numpy_generator(5, "crop", number))
            assert torch.equal(pixels, to_tensor(crop))


def test_streams_have_their_places_in_the_global_batch(tmp_path: Path) -> None:
    images = samples(write_tars(tmp_path, SIZES))
    streams = [images.stream(number) for number in range(4)]
    for batch in loader(images):
        assert batch.sample_ids == [next(stream).sample_id for stream in streams for _ in range(2)]


CUTS = [(1, 1, 2), (1, 1, 3), (1, 4, 0), (2, 1, 0), (2, 2, 2), (4, 1, 1)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")  # on two cores
@pytest.mark.parametrize(("world_size", "accumulation", "workers"), CUTS)
def test_neither_ranks_nor_micro_batches_nor_workers_have_a_say(
    world_size: int, accumulation: int, workers: int, tmp_path: Path
) -> None:
    images = samples(write_tars(tmp_path, SIZES))
    expected = by_number(list(loader(images)))
    cut = {"world_size": world_size, "accumulation": accumulation}
    seen: dict[int, tuple[str, bytes]] = {}
    for rank in range(world_size):
        pieces = loader(images, rank=rank, workers=workers, **cut)
        batches = list(pieces)
        numbers = [list(n) for step in range(6) for n in rank_numbers(step, batch_size=8, rank=rank, **cut)]
        assert [batch.numbers for batch in batches] == numbers
        assert len(pieces) == len(batches)
        seen |= by_number(batches)
    assert seen == expected


@pytest.mark.parametrize("write", [write_tars, write_parquets])
def test_two_ranks_with_two_workers_show_every_image_once_an_epoch(write: Any, tmp_path: Path) -> None:
    images = samples(write(tmp_path, SIZES))
    everything = {image.sample_id for shard in range(5) for _, image in images.shards.images(shard)}
    ends = []
    for stream in map(images.stream, range(4)):  # how many images each stream has in the first epoch
        while stream.position.epoch == 0:
            next(stream)
            ends.append(stream.position)
    first = sum(position.epoch == 0 for position in ends)
    assert first == len(everything) == 37
    seen: Counter[str] = Counter()
    for rank in range(2):
        states = loader(images, rank=rank, world_size=2, workers=2, steps=20)
        for batch in states:
            seen.update(batch.sample_ids)
        assert all(position["epoch"] >= 2 for position in states.state()["positions"].values())
    assert set(seen) == everything
    # 160 images of 37: no image is ahead of another by more epochs than its streams are.
    assert max(seen.values()) - min(seen.values()) <= 4


def test_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    write_tars(tmp_path, SIZES)
    one, other = (next(iter(loader(samples(tmp_path, seed=seed)))) for seed in (5, 6))
    assert one.sample_ids != other.sample_ids
    assert_equal(one, next(iter(loader(samples(tmp_path, seed=5)))))


# ---------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("write", [write_tars, write_parquets])
@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_after_any_step_equals_never_stopping(write: Any, workers: int, tmp_path: Path) -> None:
    images = samples(write(tmp_path, SIZES))
    whole = list(loader(images, accumulation=2, steps=12))  # 96 images: beyond the second epoch
    running = loader(images, accumulation=2, steps=12, workers=workers)
    states = [running.state()]
    for number, _ in enumerate(running, start=1):
        if number % 2 == 0:
            states.append(running.state())
    for step in (0, 1, 2, 5, 9, 11) if workers == 0 else (3, 10):
        state = json.loads(json.dumps(states[step]))
        rest = loader(images, accumulation=2, first_step=step, steps=12, workers=workers, state=state)
        assert rest.state() == states[step]
        assert_all_equal(list(rest), whole[2 * step :])
        assert rest.state() == states[-1]


def test_another_number_of_ranks_and_workers_may_go_on(tmp_path: Path) -> None:
    images = samples(write_tars(tmp_path, SIZES))
    ranks = [loader(images, rank=rank, world_size=2, steps=4, workers=2) for rank in range(2)]
    for rank in ranks:
        list(rank)
    state = merged_state([rank.state() for rank in ranks])
    alone = loader(images, first_step=4, steps=6, workers=0, state=state)
    assert_all_equal(list(alone), list(loader(images))[4:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": 8}, r"\(saved -> now\): streams 8 -> 4: give the former data\.streams"),
        ({"shuffle_block": 1, "shards": "x"}, r"shuffle_block 1 -> 3, shards x -> "),
        ({"positions": {}}, r"lacks the streams \[0, 1, 2, 3\]: merge the states of all ranks"),
    ],
)
def test_the_state_of_another_stream_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    images = samples(write_tars(tmp_path, SIZES))
    state = loader(images).state()
    with pytest.raises(DataError, match=message):
        loader(images, state=state | change)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            {"world_size": 8},
            r"data\.streams 4 must be a multiple of processes x train\.accumulation = 8 x 1 and divide",
        ),
        ({"batch_size": 12, "accumulation": 3}, r"divide train\.batch_size 12: choose one of 3, 6, 12$"),
        ({"batch_size": 6}, r"divide train\.batch_size 6: choose one of 1, 2, 3, 6$"),
        ({"batch_size": 7, "world_size": 2}, r"train\.batch_size 7 must be a multiple of processes"),
        ({"world_size": 2, "workers": 3}, r"data\.workers 3 exceeds the 2 streams of each process: "),
    ],
)
def test_streams_that_cannot_be_shared_out_are_refused(cut: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        loader(samples(write_tars(tmp_path, [5])), **cut)


# ----------------------------------------------------------------------------------------------------- bad images


def test_a_broken_image_is_reported_and_replaced_by_the_next_of_its_stream(tmp_path: Path) -> None:
    contents = [encoded(i) if i not in (4, 9) else b"words" for i in range(12)]
    contents[7] = encoded(7, width=7, height=30)
    write_tar(tmp_path / "train.tar", [(f"{i:02d}", content) for i, content in enumerate(contents)])
    images = samples(tmp_path / "train.tar", streams=2)
    expected = []
    for stream in (images.stream(0), images.stream(1)):
        found = [next(stream).sample_id for _ in range(15)]
        expected.append([name for name in found if name[-2:] not in ("04", "07", "09")])
    batches = list(loader(images, batch_size=2, steps=10))
    for place in range(2):
        assert [batch.sample_ids[place] for batch in batches] == expected[place][:10]
    bad = dict(entry for batch in batches for entry in batch.bad)
    assert set(bad) == {"train.tar/04", "train.tar/07", "train.tar/09"}
    assert bad["train.tar/07"] == "too small: got 7x30, need at least 8x8"
    assert bad["train.tar/04"].startswith("it is none of")
    assert_all_equal(list(loader(images, batch_size=2, steps=10, workers=2)), batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_broken_images_is_one_clear_line(workers: int, tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [(str(i), b"words") for i in range(30)])
    with pytest.raises(
        DataError, match=r"^20 images in a row cannot be used, the last of them train.tar/\d+: "
    ) as caught:
        list(loader(samples(tmp_path / "train.tar"), workers=workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_tar_ends_the_run_with_one_clear_line(workers: int, tmp_path: Path) -> None:
    path = write_tars(tmp_path, SIZES) / "train-2.tar"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"the shard train-2\.tar is cut short") as caught:
        list(loader(samples(tmp_path), workers=workers, steps=50))
    assert "\n" not in str(caught.value)


def test_samples_can_be_sent_to_another_process(tmp_path: Path) -> None:
    images = samples(write_tars(tmp_path, SIZES))
    assert_all_equal(list(loader(pickle.loads(pickle.dumps(images)))), list(loader(images)))


def test_the_loader_leaves_the_random_stream_alone(tmp_path: Path) -> None:
    images = samples(write_tars(tmp_path, SIZES))
    torch.manual_seed(0)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    list(loader(images, workers=1))
    list(loader(images))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_pinned_batches_keep_their_fields(tmp_path: Path) -> None:
    images = samples(write_tars(tmp_path, SIZES))
    pinned = list(loader(images, pin_memory=True))
    assert all(batch.pixels.is_pinned() for batch in pinned)
    assert_all_equal(pinned, list(loader(images)))
