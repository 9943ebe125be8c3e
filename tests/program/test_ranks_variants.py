"""With a codebook or an adversary too, two processes train the model that one trains; and bugs that break it show."""

import json
from pathlib import Path

import pytest

from tests.program.group import run_in_group
from tests.program.running import arguments, assert_same_bits, metrics, state
from tests.program.variants import VARIANTS, assert_close_run, assert_same_run, every_variant
from tests.program.variants import small_and_quick as small_and_quick  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_and_quick")]

STEPS = 6
# See test_ranks.py: other micro-batches round otherwise, and AdamW makes of that a share of the learning rate.
SLOW = ["--train.learning_rate", "1e-4"]
EARLY = [
    *("--train.keep_best", "psnr", "--train.evaluate_every_steps", "1", "--train.patience", "2"),
    *("--train.min_improvement", "1000"),  # only the first validation improves enough: the run ends after update 3
]
BUGS = ["unwrapped", "unsharded"]


def argv_of(variant: str, folder: Path, *more: str) -> list[str]:
    few = ["--evaluation.max_images", "2", "--evaluation.latent_images", "4"]
    return arguments(folder, STEPS, *few, *VARIANTS[variant], *more)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes: every variant, fast and slow, and a sound one with each bug."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [("", argv_of(variant, folder / variant)) for variant in VARIANTS]
    jobs += [("", argv_of(variant, folder / f"{variant}, slow", *SLOW)) for variant in VARIANTS]
    jobs += [("", argv_of("kl + gan", folder / "early", *EARLY))]
    jobs += [(bug, argv_of("kl + gan", folder / bug)) for bug in BUGS]
    run_in_group(jobs, folder)
    return folder


@every_variant
def test_one_process_with_accumulation_is_two_processes_to_the_last_bit(
    variant: str, main, two: Path, tmp_path: Path
) -> None:
    assert main(argv_of(variant, tmp_path, "--train.accumulation", "2")) == 0
    assert_same_run(tmp_path, two / variant, STEPS)


@every_variant
def test_two_processes_equal_one(variant: str, main, two: Path, tmp_path: Path) -> None:
    assert main(argv_of(variant, tmp_path, *SLOW)) == 0
    assert_close_run(two / f"{variant}, slow", tmp_path, STEPS)
    if variant == "ema_vq + gan":
        assert max(line["dead_codes"] for line in metrics(tmp_path)) > 0


def test_two_processes_end_early_together_and_keep_the_same_weights(main, two: Path, tmp_path: Path) -> None:
    assert main(argv_of("kl + gan", tmp_path, *EARLY, "--train.accumulation", "2")) == 0
    (steps, values), (also, others) = (zip(*saved_best(folder), strict=True) for folder in (tmp_path, two / "early"))
    assert steps == also == (1, 2, 3)
    assert values == pytest.approx(others, rel=1e-6)
    assert_same_bits(state(tmp_path, 3), state(two / "early", 3))
    assert any(name.startswith("best/") for name in state(tmp_path, 3))


def saved_best(folder: Path) -> list[list[float]]:
    """Step and value of each validation, of the last checkpoint."""
    values = json.loads((folder / "run" / "checkpoints" / "step-00000003" / "trainer.json").read_text())
    found: list[list[float]] = values["best"]
    return found


def test_a_bug_that_keeps_processes_apart_shows(main, two: Path, tmp_path: Path) -> None:
    assert main(argv_of("kl + gan", tmp_path, "--train.accumulation", "2")) == 0
    for check in (assert_same_run, assert_close_run):
        check(tmp_path, two / "kl + gan", STEPS)
        for bug in BUGS:
            with pytest.raises(AssertionError):
                check(tmp_path, two / bug, STEPS)
