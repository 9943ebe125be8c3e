import pytest

from latent_ae.config import TrainConfig
from latent_ae.training.schedules import learning_rate_at


def test_learning_rate_warms_up_and_ends_at_its_share_on_the_last_step() -> None:
    config = TrainConfig(steps=105, learning_rate=1.0, schedule="cosine", warmup_steps=5, final_learning_rate_share=0.1)
    assert [learning_rate_at(step, config) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert learning_rate_at(5, config) == 1.0
    assert learning_rate_at(104, config) == pytest.approx(0.1)
    halfway = TrainConfig(steps=101, learning_rate=1.0, schedule="cosine")
    assert learning_rate_at(50, halfway) == pytest.approx(0.5)


def test_linear_and_constant_learning_rate() -> None:
    linear = TrainConfig(steps=11, learning_rate=2.0, schedule="linear")
    assert [learning_rate_at(step, linear) for step in (0, 5, 10)] == pytest.approx([2.0, 1.0, 0.0])
    constant = TrainConfig(steps=11, learning_rate=2.0)
    assert {learning_rate_at(step, constant) for step in range(11)} == {2.0}
