"""A run with a codebook or an adversary, stopped in any way and gone on with, is one that never stopped."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.program.running import arguments, kill_after, metrics, start, state
from tests.program.variants import VARIANTS, Crash, assert_same_run, at_steps, every_variant
from tests.program.variants import small_and_quick as small_and_quick  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_and_quick")]

STEPS = 12
EVERY = ["--train.checkpoint_every_steps", "3", "--train.keep_checkpoints", "9"]


def argv_of(variant: str, folder: Path) -> list[str]:
    return arguments(folder, STEPS, *EVERY, *VARIANTS[variant])


@every_variant
def test_stopped_by_signals_and_a_crash(
    variant: str,
    *,
    main,
    train_module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(argv_of(variant, tmp_path / "whole")) == 0
    check_the_run_did_all_it_was_to_do(variant, tmp_path / "whole")

    def stop(step: int) -> None:
        if step == 5:
            raise Crash
        os.kill(os.getpid(), signal.SIGTERM)

    # Before the discriminator starts, between two checkpoints, and after the autoencoder has seen it.
    at_steps(train_module, monkeypatch, [2, 5, 7], stop)
    argv = argv_of(variant, tmp_path / "stopped")
    assert main(argv) == 128 + signal.SIGTERM
    with pytest.raises(Crash):
        main(argv)
    assert main(argv) == 128 + signal.SIGTERM
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert [f"going on after step {step}" in said for step in (2, 3, 7)] == [True] * 3
    assert_same_run(tmp_path / "stopped", tmp_path / "whole", STEPS)


def check_the_run_did_all_it_was_to_do(variant: str, folder: Path) -> None:
    """Or the comparisons would hold for a run in which nothing moves."""
    lines = metrics(folder)
    if variant == "kl + gan":
        assert ["discriminator" in line for line in lines] == [False] * 2 + [True] * 10
        assert ["adversarial" in line for line in lines] == [False] * 4 + [True] * 8
        assert all(line["adversarial_weight"] > 0 for line in lines[4:])
    if variant == "ema_vq + gan":
        assert max(line["dead_codes"] for line in lines) > 0
    before, after = state(folder, 9), state(folder, 12)
    named = [name for name in after if name.startswith(("weights", "ema", "discriminator")) and after[name].numel() > 1]
    still = [name for name in named if torch.equal(before[name], after[name])]
    # A grid of codes never moves; an embedding's row that no vector chose does not either.
    assert [name for name in still if "quantize" not in name and not name.endswith("|step")] == []


def test_killed_without_a_chance_to_save(main, tmp_path: Path) -> None:
    argv = argv_of("kl + gan", tmp_path / "killed")
    kill_after(start(argv), tmp_path / "killed", 7)
    assert not (tmp_path / "killed" / "run" / "model").exists()
    assert main(argv) == 0
    assert main(argv_of("kl + gan", tmp_path / "whole")) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole", STEPS)
