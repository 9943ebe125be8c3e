"""Which weights are the best and when patience is over, worked out by hand."""

import json
from typing import Any

import pytest
import torch

from latent_ae.config import ConfigError, TrainConfig, validate
from latent_ae.errors import UserError
from latent_ae.evaluation.metrics.quality import UNITS_AND_PROTOCOLS
from latent_ae.training.best import HIGHER_IS_BETTER, BestWeights
from latent_ae.training.settings import RunConfig


def after(values: list[float | None], measure: str = "psnr", **more: Any) -> BestWeights:
    """Validations after updates 10, 20, ..., each with the weights w = its update."""
    best = BestWeights(measure, **more)
    for number, value in enumerate(values, 1):
        best.add(10 * number, value, "not finite", lambda step=10 * number: {"w": torch.tensor(step)})  # type: ignore[misc]  # the default binds it
    return best


@pytest.mark.parametrize(
    ("measure", "values", "step", "stale"),
    [
        ("psnr", [20.0, 21.0, 20.5], 20, 1),
        ("l1", [0.2, 0.1, 0.3, 0.15], 20, 2),
        ("psnr", [20.0, 20.0, 20.0], 10, 2),  # of equals the first
        ("psnr", [20.0, None, 21.0, None], 30, 1),  # a value that is not finite is no improvement
        ("psnr", [20.0], 10, 0),
    ],
)
def test_the_best_and_the_validations_since(measure: str, values: list[float | None], step: int, stale: int) -> None:
    best = after(values, measure)
    assert (best.step, best.stale, best.tensors["w"].item(), best.over) == (step, stale, step, False)
    again = BestWeights(measure)
    again.restore(json.loads(json.dumps(best.state())), best.tensors)
    again.add(10 * len(values), values[-1], "", dict)  # the last validation is made again after a resume
    assert (again.values, again.step, again.stale) == (best.values, step, stale)


def test_patience_counts_improvements_of_a_least_size_together() -> None:
    # From 20.0 on, 20.4 is not more than 0.5, but 20.6 is: small improvements add up.
    assert [after([20.0, 20.4, 20.6, 20.7][:count], min_improvement=0.5).stale for count in (1, 2, 3, 4)] == [
        0,
        1,
        0,
        1,
    ]
    assert after([20.0, 20.4], min_improvement=0.5).step == 20, "the best is the best, by however little"
    assert [after([20.0, 19.0, 19.5][:count], patience=2).over for count in (1, 2, 3)] == [False, False, True]


def test_validations_before_the_first_step_do_not_count() -> None:
    best = after([30.0, 20.0, 19.0], first_step=20, patience=1)
    assert (best.step, best.values, best.over) == (20, {20: 20.0, 30: 19.0}, True)


def test_what_is_kept_is_said() -> None:
    assert after([20.0, 21.0, 20.5]).summary() == (
        "weights of update 20, the best of 3 validations by psnr: 21, and 20.5 for the last, of update 30"
    )
    assert after([20.0, 21.0]).summary() == "weights of update 20, the best of 2 validations by psnr (21) and the last"


def test_a_measure_that_has_no_value_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"keep_best ssim has no value after update 10: no image is that large"):
        BestWeights("ssim").add(10, None, "no image is that large", dict)


def test_every_name_is_measured_and_has_a_direction() -> None:
    assert HIGHER_IS_BETTER.keys() <= {*UNITS_AND_PROTOCOLS, "rfid"}
    for measure in HIGHER_IS_BETTER:
        assert TrainConfig(keep_best=measure, evaluate_every_steps=100).keep_best == measure  # type: ignore[arg-type]  # the names are what is tested


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"keep_best": "psnr"}, "give train.evaluate_every_steps below it, got 0"),
        ({"keep_best": "psnr", "evaluate_every_steps": 1000}, "there is none before the last of train.steps 1000"),
        ({"keep_best": "loss", "evaluate_every_steps": 100}, "train.keep_best: got 'loss'; input should be 'psnr', "),
        ({"patience": 3}, "train.patience needs train.keep_best"),
        ({"patience": 0}, "train.patience: got 0"),
        ({"min_improvement": 0.1}, "train.min_improvement needs train.patience"),
        ({"keep_best": "l1", "evaluate_every_steps": 100, "patience": 9}, "train.patience 9 has no effect"),
        ({"keep_best": "l1", "evaluate_every_steps": 100, "keep_best_from_step": 901}, "leaves no validation before"),
        ({"keep_best_from_step": 5}, "train.keep_best_from_step needs train.keep_best"),
        ({"keep_best": "rfid", "evaluate_every_steps": 100}, "rfid is not measured in this run: give evaluation.fid"),
        ({"keep_best": "perceptual", "evaluate_every_steps": 100}, "in this run: give evaluation.perceptual"),
        (
            {"keep_best": "mae", "evaluate_every_steps": 100},
            "mae is not measured in this run: give data.value_range, or",
        ),
    ],
)
def test_a_setting_without_effect_is_one_line(train: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, {"train": train})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_validation_may_change_unless_they_decide_which_weights_are_kept() -> None:
    kept = validate(RunConfig, {"train": {"keep_best": "psnr", "evaluate_every_steps": 100}})
    assert set(RunConfig().free_to_change) - set(kept.free_to_change) == {"train.evaluate_every_steps", "evaluation."}
