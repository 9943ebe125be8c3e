import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latent_ae.data import DataError, TrainingSamples, evaluation_batches, training_loader
from latent_ae.data.loader import batch_of
from latent_ae.data.order.numbers import EpochOrder, index_of
from latent_ae.data.transforms import Fitting, TrainingCrop
from latent_ae.io.image import WHITE, BrokenImage, to_tensor, to_uint8
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.randomness import numpy_generator
from tests.data.images import ListSource, noise_image

BAD = (2, 7, 8)
CROP = TrainingCrop(pixel_format=PixelFormat.picture(3), crop="random", flip=True)


def source(size: int = 11, bad: tuple[int, ...] = ()) -> ListSource:
    return ListSource([BrokenImage(f"bad {i}") if i in bad else noise_image(i) for i in range(size)])


def samples(images: ListSource, seed: int = 5) -> TrainingSamples:
    return TrainingSamples(images, EpochOrder(images, seed, (8, 8)), CROP, seed=seed)


def batches(images: ListSource, **changes: Any) -> list[Any]:
    arguments = {"batch_size": 6, "accumulation": 1, "rank": 0, "world_size": 1, "first_step": 0, "steps": 5}
    arguments |= {"workers": 0, "pin_memory": False} | changes
    return list(training_loader(samples(images), collate=batch_of, **arguments))


def pixels(parts: list[Any]) -> torch.Tensor:
    return torch.cat([batch.pixels for batch in parts])


# ------------------------------------------------------------------------------------------------------- samples


def test_a_sample_is_the_crop_that_its_number_names() -> None:
    images = source()
    sample = samples(images)[25]
    index = index_of(5, 25, 11)
    crop = CROP(images.load(index), (8, 8), numpy_generator(5, "crop", 25))
    assert torch.equal(sample.pixels, to_tensor(crop))
    assert (sample.number, sample.sample_id, sample.bad) == (25, f"list/{index}", [])


def test_an_image_that_is_to_be_padded_is_whole_in_the_upper_left_and_its_edge_repeated() -> None:
    images = ListSource([noise_image(0, 16, 12), noise_image(1, 12, 8), noise_image(2, 10, 32)])
    crop = TrainingCrop(pixel_format=PixelFormat.picture(3), fitting=Fitting("pad"), flip=True)
    order = EpochOrder(images, 5, (12, 16))
    dataset = TrainingSamples(images, order, crop, seed=5)
    valid = {0: (12, 16), 1: (11, 16), 2: (12, 4)}
    padded = [dataset[number] for number in range(3)]
    for number, sample in enumerate(padded):
        index = order.index(number)
        height, width = sample.valid
        assert sample.valid == valid[index]
        whole = to_tensor(crop(images.load(index), (12, 16), numpy_generator(5, "crop", number)))
        assert torch.equal(sample.pixels[:, :height, :width], whole)
        edge = whole[:, [min(row, height - 1) for row in range(12)]][:, :, [min(c, width - 1) for c in range(16)]]
        assert torch.equal(sample.pixels, edge)
    batch = batch_of(padded)
    assert batch.valid is not None
    assert batch.valid.tolist() == [list(sample.valid) for sample in padded]
    assert batch_of([sample for sample in padded if sample.valid == (12, 16)]).valid is None


def test_an_image_is_cropped_anew_in_every_epoch() -> None:
    dataset = samples(source(1))
    crops = {dataset[number].pixels.numpy().tobytes() for number in range(20)}
    assert len(crops) > 10


def test_bad_images_are_reported_and_replaced_as_the_number_says() -> None:
    dataset = samples(source(bad=BAD))
    replaced = 0
    for number in range(22):
        tried = [index_of(5, number, 11)]
        while tried[-1] in BAD:
            tried.append(EpochOrder(range(11), 5, (8, 8)).replacement(number, len(tried) - 1))
        sample = dataset[number]
        assert sample.sample_id == f"list/{tried[-1]}"
        assert sample.bad == [(f"list/{index}", f"bad {index}") for index in tried[:-1]]
        replaced += len(tried) > 1
    assert replaced == 6  # three images in each of two epochs


def test_too_small_an_image_is_a_bad_image() -> None:
    images = source(2)
    images.images[0] = Image.new("RGB", (7, 30))
    found = [bad for number in range(2) for bad in samples(images)[number].bad]
    assert set(found) == {("list/0", "too small: got 7x30, need at least 8x8")}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_images_is_one_clear_line(workers: int) -> None:
    with pytest.raises(DataError, match=r"^20 images in a row cannot be used, the last of them list/\d: bad") as caught:
        batches(source(3, bad=(0, 1, 2)), workers=workers)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- loader


def test_batches_come_in_order_with_all_their_fields() -> None:
    images = source(bad=BAD)
    seen = batches(images, first_step=3, steps=5)
    assert [batch.numbers for batch in seen] == [list(range(18, 24)), list(range(24, 30))]
    dataset = samples(images)
    for batch in seen:
        assert batch.pixels.shape == (6, 3, 8, 8)
        assert batch.pixels.dtype == torch.float32
        alone = [dataset[number] for number in batch.numbers]
        assert torch.equal(batch.pixels, torch.stack([sample.pixels for sample in alone]))
        assert batch.sample_ids == [sample.sample_id for sample in alone]
        assert batch.bad == [bad for sample in alone for bad in sample.bad]


def test_worker_processes_make_the_same_bytes() -> None:
    images = source(bad=BAD)
    alone, helped = batches(images), batches(images, workers=2)
    assert len(alone) == len(helped) == 5
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert (one.numbers, one.sample_ids, one.bad) == (other.numbers, other.sample_ids, other.bad)


def test_resuming_goes_on_where_the_run_stopped() -> None:
    images = source()
    assert torch.equal(pixels(batches(images)), pixels(batches(images, steps=2) + batches(images, first_step=2)))


def test_ranks_and_micro_batches_are_pieces_of_the_same_batches() -> None:
    images = source()
    whole = batches(images)
    accumulated = batches(images, accumulation=2)
    ranks = [batches(images, rank=rank, world_size=2) for rank in range(2)]
    assert len(accumulated) == 10
    assert torch.equal(pixels(whole), pixels(accumulated))
    interleaved = list(itertools.chain.from_iterable(zip(*ranks, strict=True)))
    for one, other in zip(accumulated, interleaved, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one.numbers == other.numbers


def test_the_loader_knows_its_length_and_leaves_the_random_stream_alone() -> None:
    arguments = {"batch_size": 6, "accumulation": 3, "rank": 0, "world_size": 2, "first_step": 1, "steps": 5}
    loader = training_loader(samples(source()), collate=batch_of, **arguments, workers=0, pin_memory=False)
    torch.manual_seed(0)
    expected = torch.random.get_rng_state()
    assert len(loader) == len(list(loader)) == 12
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_a_batch_that_cannot_be_cut_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"must be a multiple of processes x train.accumulation = 2 x 2 = 4"):
        training_loader(
            samples(source()),
            collate=batch_of,
            batch_size=6,
            accumulation=2,
            rank=0,
            world_size=2,
            first_step=0,
            steps=0,
            workers=0,
            pin_memory=False,
        )


class ThreadCount(ListSource):
    """Tells the number of torch's threads where it is asked, as a grey value."""

    def load(self, index: int) -> Image.Image:
        return Image.new("L", (8, 8), torch.get_num_threads())


def test_workers_do_not_multiply_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (batch,) = batches(ThreadCount([Image.new("L", (8, 8))]), steps=1, workers=1)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(batch.pixels, torch.full((6, 3, 8, 8), 1 / 127.5 - 1))


def test_samples_can_be_sent_to_another_process() -> None:
    dataset = samples(source())
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3].pixels, dataset[3].pixels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_pinned_batches_keep_their_fields() -> None:
    images = source(bad=BAD)
    for one, other in zip(batches(images), batches(images, pin_memory=True), strict=True):
        assert other.pixels.is_pinned()
        assert torch.equal(one.pixels, other.pixels)
        assert (one.numbers, one.sample_ids, one.bad) == (other.numbers, other.sample_ids, other.bad)


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluate(images: ListSource, **changes: Any) -> tuple[list[Any], list[tuple[str, str]]]:
    bad: list[tuple[str, str]] = []
    arguments: dict[str, Any] = {"size": 16, "background": WHITE, "batch_size": 4, "limit": None}
    arguments |= {"pixels": PixelFormat.picture(3)}
    arguments |= {"on_bad": lambda sample_id, reason: bad.append((sample_id, reason))}
    return list(evaluation_batches(images, **(arguments | changes))), bad


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_every_image_once_and_reports_the_bad_ones(workers: int) -> None:
    images = source(bad=BAD)
    seen, bad = evaluate(images, workers=workers)
    assert [batch.indices for batch in seen] == [[0, 1, 3, 4], [5, 6, 9, 10]]
    assert seen[1].sample_ids == ["list/5", "list/6", "list/9", "list/10"]
    assert bad == [(f"list/{index}", f"bad {index}") for index in BAD]
    for batch in seen:
        for image, index in zip(batch.pixels, batch.indices, strict=True):
            whole = to_uint8(images.load(index), 3)  # 20 x 16, so the centre starts at 2
            assert torch.equal(image, to_tensor(np.ascontiguousarray(whole[:, 2:18])))


def test_evaluation_batches_hold_one_size() -> None:
    sizes = [(20, 16), (20, 16), (16, 20), (20, 16), (20, 16), (20, 16)]
    images = ListSource([noise_image(i, *size) for i, size in enumerate(sizes)])
    seen, _ = evaluate(images, size=None, batch_size=2)
    assert [batch.indices for batch in seen] == [[0, 1], [2], [3, 4], [5]]
    assert seen[1].pixels.shape == (1, 3, 20, 16)


def test_evaluation_batches_hold_a_number_of_pixels_and_are_given_before_the_next_image_is_loaded() -> None:
    sizes = [(16, 16)] * 5 + [(40, 30), (16, 16)]
    images = ListSource([noise_image(i, *size) for i, size in enumerate(sizes)])
    assert [batch.indices for batch in evaluate(images, size=None, pixels_at_once=3 * 256 + 255)[0]] == [
        *([0, 1, 2], [3, 4]),
        *([5], [6]),
    ]
    loaded: list[int] = []
    images.load = lambda index, load=images.load: loaded.append(index) or load(index)  # type: ignore[method-assign]  # of one
    found = evaluation_batches(
        images,
        PixelFormat.picture(3),
        size=None,
        background=WHITE,
        batch_size=4,
        pixels_at_once=256,
        limit=None,
        on_bad=print,
    )
    next(found)
    assert loaded == [0]


def test_the_limit_is_spread_over_the_source_before_ranks_share_the_images() -> None:
    indices = [
        [i for batch in evaluate(source(), limit=7, shard=(rank, 3))[0] for i in batch.indices] for rank in range(3)
    ]
    assert indices == [[0, 4, 9], [1, 6], [3, 7]]  # of 11: 0 1 3 4 6 7 9
    assert [batch.indices for batch in evaluate(source(2), limit=7)[0]] == [[0, 1]]
    assert evaluate(source(2), shard=(2, 3)) == ([], [])
