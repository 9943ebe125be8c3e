import time

import pytest

from latent_ae.service.jobs import Speed


def test_the_speed_is_the_best_that_was_seen() -> None:
    speed = Speed(None)
    assert speed.seconds(100) == 0.0
    with speed.measured(10):
        time.sleep(0.02)
    assert speed.seconds(10) >= 0.02
    slow = speed.seconds(10)
    with speed.measured(10):
        time.sleep(0.2)
    assert speed.seconds(10) == slow
    with pytest.raises(ZeroDivisionError), speed.measured(10**9):
        raise ZeroDivisionError
    assert speed.seconds(10) == slow
    assert Speed(0.5).seconds(4) == 2.0
