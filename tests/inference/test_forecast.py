"""What is said of a large image before the work: by hand, from paces that are given."""

import pytest

from latent_ae.inference import Codec
from latent_ae.inference.forecast import forecast
from latent_ae.inference.timing import Pace, duration
from tests.models.stock_models import stock

SIDE = 4096


def codec(*per_pair: float, tile: int | None = None) -> Codec:
    """Both sides take 1e-5 seconds a pixel: 168 seconds an image of 4096x4096."""
    made = Codec(stock("stable diffusion"), name="m", precision="fp32", tile=tile)
    attended = None if tile is None else tile**2
    made.__dict__["paces"] = tuple(Pace(1e-5, each, attended) for each in per_pair)
    return made


def test_attention_of_more_than_ten_minutes_is_said_with_what_tiles_take() -> None:
    ten_minutes = 601 / SIDE**4
    assert forecast(codec(ten_minutes, 0), ["encoder"], SIDE, SIDE) == [
        # 25 tiles of 1024: 262 seconds, and 25/256 of 601 for attention in them.
        "takes about 13 minutes, 10 minutes of them for attention, which grows with the square of the pixels: "
        "--tile 1024, an approximation, would take about 5 minutes"
    ]
    assert len(forecast(codec(ten_minutes, 0), ["encoder", "decoder"], SIDE, SIDE)) == 1
    assert len(forecast(codec(ten_minutes / 2, ten_minutes / 2), ["encoder", "decoder"], SIDE, SIDE)) == 1


def test_otherwise_nothing_is() -> None:
    ten_minutes = 601 / SIDE**4
    assert forecast(codec(ten_minutes, 0), ["decoder"], SIDE, SIDE) == []
    assert forecast(codec(0.99 * ten_minutes, 0), ["encoder"], SIDE, SIDE) == []
    assert forecast(codec(ten_minutes, 0, tile=512), ["encoder"], SIDE, SIDE) == []
    small = codec(1.0, 1.0)
    del small.__dict__["paces"]
    assert forecast(small, ["encoder"], 2048, 2048) == []
    assert "paces" not in small.__dict__, "a small image does not wait for the time to be taken"


@pytest.mark.parametrize(("seconds", "text"), [(119.4, "119 seconds"), (120, "2 minutes"), (7300, "2 hours")])
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
