import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from latent_ae.data import DataError, StreamConfig
from latent_ae.data.order.stream import ImageStream, Position
from latent_ae.data.source import hash_place
from latent_ae.data.sources.shards import Shards
from latent_ae.randomness import numpy_generator
from tests.data.written import write_parquets, write_tars


def shards_of(folder: Path) -> Shards:
    return StreamConfig(path=str(folder), heldout_share=1e-9, collected_images=1).open().stream


def stream(shards: Shards, number: int = 0, count: int = 1, **changes: object) -> ImageStream:
    arguments = {"seed": 3, "block_size": 4, "position": None} | changes
    return ImageStream(shards, number=number, count=count, **arguments)  # type: ignore[arg-type]  # of all types


def taken(images: ImageStream, count: int) -> list[str]:
    return [next(images).sample_id for _ in range(count)]


def by_epoch(images: ImageStream, epochs: int) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    while True:
        sample_id = next(images).sample_id
        if images.position.epoch >= epochs:
            return found
        found[images.position.epoch].append(sample_id)


SHARED_OUT = [
    (write_tars, [23], 1),
    (write_tars, [23], 4),
    (write_tars, [1, 12, 5], 2),
    (write_tars, [1, 12, 5], 4),
    (write_tars, [4, 6, 2, 9, 3], 4),
    (write_parquets, [7, 2], 3),
    (write_parquets, [4, 6, 2, 9, 3], 2),
]


@pytest.mark.parametrize(("write", "sizes", "count"), SHARED_OUT)
def test_every_image_comes_once_an_epoch_in_one_of_the_streams(
    write: Callable[[Path, list[int]], Path], sizes: list[int], count: int, tmp_path: Path
) -> None:
    shards = shards_of(write(tmp_path, sizes))
    streams = [by_epoch(stream(shards, number, count), 3) for number in range(count)]
    everything = {image.sample_id for shard in range(len(shards)) for _, image in shards.images(shard)}
    assert len(everything) == sum(sizes)
    for epoch in range(3):
        assert Counter(name for found in streams for name in found[epoch]) == Counter(everything)


def test_held_out_images_never_come(tmp_path: Path) -> None:
    parts = StreamConfig(path=str(write_tars(tmp_path, [20, 20])), heldout_share=0.3, collected_images=99).open()
    seen = {name for number in range(2) for name in by_epoch(stream(parts.stream, number, 2), 1)[0]}
    assert seen == {
        f"train-{s}.tar/{row:04d}"
        for s in range(2)
        for row in range(20)
        if hash_place(f"train-{s}.tar/{row:04d}") >= 0.3
    }


def test_the_order_by_hand(tmp_path: Path) -> None:
    # Three shards for two streams: stream 1 takes the second of the epoch's order. Blocks of 4.
    shards = shards_of(write_tars(tmp_path, [6, 6, 6]))
    expected = []
    for epoch in range(2):
        shard = numpy_generator(3, "shards", epoch).permutation(3)[1]
        for block, rows in enumerate(([0, 1, 2, 3], [4, 5])):
            order = numpy_generator(3, "stream", epoch, 1, block).permutation(len(rows))
            expected += [f"train-{shard}.tar/{rows[place]:04d}" for place in order]
    assert taken(stream(shards, 1, 2), 12) == expected


def test_rows_of_one_shard_are_dealt_out_in_turn(tmp_path: Path) -> None:
    shards = shards_of(write_tars(tmp_path, [8]))
    rows = [taken(stream(shards, number, 3, block_size=1), 3) for number in range(3)]
    assert [[int(name[-4:]) for name in row] for row in rows] == [[0, 3, 6], [1, 4, 7], [2, 5, 2]]  # the last: epoch 1


def test_seeds_and_epochs_have_orders_of_their_own(tmp_path: Path) -> None:
    shards = shards_of(write_tars(tmp_path, [9, 9, 9]))
    orders = [tuple(order) for seed in (3, 4) for order in by_epoch(stream(shards, seed=seed), 3).values()]
    assert len(set(orders)) == len(orders) == 6


@pytest.mark.parametrize(
    ("write", "number", "count"),
    [(write_tars, 0, 1), (write_tars, 1, 2), (write_tars, 3, 5), (write_parquets, 1, 2)],
)
def test_going_on_from_any_position_equals_never_stopping(
    write: Callable[[Path, list[int]], Path], number: int, count: int, tmp_path: Path
) -> None:
    shards = shards_of(write(tmp_path, [6, 1, 9]))  # for five streams rows are dealt out, for two a share is short
    whole = stream(shards, number, count)
    names, positions = [], [whole.position]
    for _ in range(40):
        names.append(next(whole).sample_id)
        positions.append(whole.position)
    assert positions[-1].epoch >= 2
    for stop in range(36):
        saved = json.loads(json.dumps(positions[stop].to_json()))
        again = stream(shards, number, count, position=Position.from_json(saved))
        assert again.position == positions[stop]
        assert taken(again, 4) == names[stop : stop + 4]
        assert again.position == positions[stop + 4]


def test_rows_are_read_evenly_and_no_more_than_a_block_ahead(tmp_path: Path) -> None:
    shards = shards_of(write_tars(tmp_path, [40]))
    read: list[int] = []
    original = shards.images

    def counted(shard: int, first_row: int = 0) -> object:
        for row, image in original(shard, first_row):
            read.append(row)
            yield row, image

    shards.images = counted  # type: ignore[method-assign, assignment]  # to count the reads
    images, ahead = stream(shards, block_size=10), []
    for given in range(1, 31):
        next(images)
        ahead.append(len(read) - given)
    assert ahead == [9] * 30


def test_a_stream_that_can_never_have_an_image_is_an_error(tmp_path: Path) -> None:
    shards = shards_of(write_tars(tmp_path, [2]))
    assert taken(stream(shards, 1, 3), 2) == ["train-0.tar/0001"] * 2
    with pytest.raises(DataError, match=r"stream 2 of 3 found no image in 20 epochs: .* lower data\.streams"):
        next(stream(shards, 2, 3))


@pytest.mark.parametrize(
    "fields", [{}, {"epoch": 1}, Position().to_json() | {"row": -1}, Position().to_json() | {"x": 1}]
)
def test_what_is_no_position_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected a stream's position with block, epoch, given, place, row, got"):
        Position.from_json(fields)
