import itertools

import pytest

from latent_ae.data.order.numbers import EpochOrder, index_of, rank_numbers


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    epochs = [[index_of(3, epoch * 50 + place, 50) for place in range(50)] for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    for one, other in itertools.combinations(epochs, 2):
        assert one != other
    assert epochs[0] != [index_of(4, place, 50) for place in range(50)]


def test_the_order_does_not_depend_on_when_it_is_asked_for() -> None:
    forward = [index_of(0, number, 7) for number in range(70)]
    backward = [index_of(0, number, 7) for number in reversed(range(70))]
    assert forward == backward[::-1]


def test_the_order_is_the_same_for_ever() -> None:
    # Written down once: a change here means that no run can be resumed or repeated.
    assert [index_of(0, number, 10) for number in range(12)] == [6, 5, 7, 9, 4, 1, 2, 0, 3, 8, 9, 2]
    assert [EpochOrder(range(100), seed=0, shape=(8, 8)).replacement(5, attempt) for attempt in range(4)] == [
        78,
        5,
        81,
        30,
    ]


def test_replacements_differ_by_attempt_and_sample() -> None:
    drawn = {
        EpochOrder(range(10**9), seed=0, shape=(8, 8)).replacement(number, attempt)
        for number in range(20)
        for attempt in range(20)
    }
    assert len(drawn) == 400


def test_no_images_cannot_be_ordered() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        index_of(0, 0, 0)


def test_numbers_of_ranks_and_micro_batches_by_hand() -> None:
    # Step 2 of a global batch of 12 holds 24..35, in 4 pieces of 3.
    pieces = [[*range(24, 27)], [*range(27, 30)], [*range(30, 33)], [*range(33, 36)]]

    def cut(accumulation: int, rank: int, world_size: int) -> list[list[int]]:
        numbers = rank_numbers(2, batch_size=12, accumulation=accumulation, rank=rank, world_size=world_size)
        return [list(micro_batch) for micro_batch in numbers]

    assert cut(4, 0, 1) == pieces
    assert [cut(1, rank, 4) for rank in range(4)] == [[piece] for piece in pieces]
    assert [cut(2, rank, 2) for rank in range(2)] == [[pieces[0], pieces[2]], [pieces[1], pieces[3]]]


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (1, 6), (2, 3), (6, 1), (12, 2)])
def test_every_number_of_a_step_is_taken_once(world_size: int, accumulation: int) -> None:
    taken = [
        number
        for rank in range(world_size)
        for micro_batch in rank_numbers(5, batch_size=24, accumulation=accumulation, rank=rank, world_size=world_size)
        for number in micro_batch
    ]
    assert sorted(taken) == list(range(120, 144))


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.batch_size 10 must be a multiple of .* 2 x 3 = 6: change it to 12"):
        rank_numbers(0, batch_size=10, accumulation=3, rank=0, world_size=2)
