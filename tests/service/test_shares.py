import pytest

from latent_ae.service.shares import Shares


@pytest.mark.parametrize(("most", "each"), [(20, [10, 5, 3, 1, 1, 0]), (4, [2, 1, 1, 0]), (2, [1, 1, 0]), (1, [1, 0])])
def test_one_visitor_gets_as_much_as_is_left_for_others(most: int, each: list[int]) -> None:
    places = Shares(most)
    for visitor, expected in enumerate(each):
        while places.take(visitor):
            pass
        assert places.of(visitor) == expected
    assert places.taken == most
    for visitor, count in enumerate(each):
        places.give_back(visitor, count)
    assert (places.taken, places._held) == (0, {})


def test_nobody_may_take_all() -> None:
    places = Shares(10)
    assert places.take(None, 10)
    assert not places.take(None)
    assert not places.take("a")
