import pytest

from latent_ae.service.admission import Slots


@pytest.mark.parametrize(("most", "each"), [(20, [10, 5, 3, 1, 1, 0]), (4, [2, 1, 1, 0]), (2, [1, 1, 0]), (1, [1, 0])])
def test_one_visitor_gets_as_much_as_is_left_for_others(most: int, each: list[int]) -> None:
    slots = Slots(most)
    for visitor, expected in enumerate(each):
        while slots.acquire(visitor):
            pass
        assert slots.held_by(visitor) == expected
    assert slots.used == most
    for visitor, count in enumerate(each):
        slots.release(visitor, count)
    assert slots.used == 0


def test_nobody_may_take_all() -> None:
    slots = Slots(10)
    assert slots.acquire(None, 10)
    assert not slots.acquire(None)
    assert not slots.acquire("a")
