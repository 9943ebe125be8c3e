import time

import pytest

from latent_ae.inference.timing import Pace
from latent_ae.service.jobs import Speed


def test_the_speed_is_the_best_that_was_seen() -> None:
    speed = Speed(Pace(1.0, 0.5))
    assert speed.seconds(10) == 10 + 0.5 * 10**2
    with speed.measured(10, 3):
        time.sleep(0.06)
    assert 0.02 <= speed.seconds(10) < 60
    slow = speed.seconds(10)
    with speed.measured(10, 1):
        time.sleep(slow + 0.1)
    assert speed.seconds(10) == slow
    with pytest.raises(ZeroDivisionError), speed.measured(10**9, 1):
        raise ZeroDivisionError
    assert speed.seconds(10) == slow
