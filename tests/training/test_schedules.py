import pytest

from latent_ae.config import LossConfig, TrainConfig
from latent_ae.training.schedules import beta_at, beta_conventions, capacity_at, learning_rate_at


def test_linear_beta_warm_up() -> None:
    config = LossConfig(beta=0.5, beta_schedule="linear", beta_warmup_steps=10)
    assert [beta_at(step, config) for step in (0, 1, 5, 10, 99)] == [0.0, 0.05, 0.25, 0.5, 0.5]


def test_cyclical_beta_rises_for_half_a_cycle_and_stays_for_the_other() -> None:
    config = LossConfig(beta=1.0, beta_schedule="cyclical", beta_cycle_steps=8)
    assert [beta_at(step, config) for step in range(9)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_capacity_rises_to_its_target() -> None:
    config = LossConfig(beta=1.0, capacity=25.0, capacity_steps=100)
    assert [capacity_at(step, config) for step in (0, 50, 100, 500)] == [0.0, 12.5, 25.0, 25.0]
    assert capacity_at(0, LossConfig(beta=1.0, capacity=25.0)) == 25.0
    assert capacity_at(0, LossConfig()) is None


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


def test_conventions_of_the_published_kl_weight() -> None:
    # LDM's kl-f8 at 256 px: 1e-6 on sums is 1e-6 * 4096 / 196608 = 2.08e-8 on means.
    text = beta_conventions(1e-6, 3 * 256 * 256, 4 * 32 * 32)
    assert "kl_weight 1e-06 in LDM" in text
    assert "5.09e-12 against a mean reconstruction and a summed KL" in text
    assert "2.08e-08 against means of both" in text
