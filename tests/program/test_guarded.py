"""Updates that are not made: counted, without a trace in the model, and the end of a run that goes wild."""

import json
from pathlib import Path

import pytest
import torch

from latent_ae.models.bottlenecks.ema_vq import EMAVQBottleneck
from tests.program.running import arguments, assert_same_bits, metrics, state
from tests.program.variants import SMALL_GAN, VARIANTS

pytestmark = pytest.mark.slow  # whole runs


GAN = ["--adversarial.loss", "hinge", *SMALL_GAN]
EVERY = ["--train.checkpoint_every_steps", "1", "--train.keep_checkpoints", "9", "--train.schedule", "constant"]


def guarded(threshold: str, patience: str) -> list[str]:
    return ["--train.skip_above_grad_norm", threshold, "--train.max_skips_in_a_row", patience]


def spike_at(train_module, monkeypatch: pytest.MonkeyPatch, spikes: list[int], factor: float = 1e6) -> None:
    """Multiply the gradient of one weight in some of the updates."""
    own = train_module.AutoencoderTraining.generator_step

    def generator_step(self, *given):
        step = self.state.step
        weight = next(parameter for parameter in self.prepared.parameters() if parameter.requires_grad)
        hook = weight.register_hook(lambda gradient: gradient * (factor if step in spikes else 1.0))
        try:
            return own(self, *given)
        finally:
            hook.remove()

    monkeypatch.setattr(train_module.AutoencoderTraining, "generator_step", generator_step)


@pytest.mark.parametrize("variant", ["kl", pytest.param("ema_vq + gan", marks=pytest.mark.slow)])
def test_a_spike_is_skipped_counted_and_leaves_no_trace(
    variant: str, main, train_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spike_at(train_module, monkeypatch, [2])
    assert main(arguments(tmp_path, 5, *EVERY, *guarded("1000", "2"), *VARIANTS.get(variant, []))) == 0
    lines = metrics(tmp_path)
    assert [line["skipped_generator"] for line in lines] == [0, 0, 1, 1, 1]
    assert [line["grad_norm"] is None for line in lines] == [False, False, True, False, False]
    assert "discriminator" not in lines[2]
    # Weights, average, both optimizers, the codebook's averages and the discriminator are as they were.
    assert_same_bits(state(tmp_path, 3), state(tmp_path, 2))
    name = "weights/autoencoder.decoder.conv_out.weight"
    assert not torch.equal(state(tmp_path, 4)[name], state(tmp_path, 3)[name])


def test_a_run_that_spikes_on_ends_and_keeps_its_weights(
    main, train_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spike_at(train_module, monkeypatch, [1, 3, 4, 5])  # one alone does not count towards three in a row
    assert main(arguments(tmp_path, 9, *EVERY, *guarded("1000", "2"))) == 1
    err = capsys.readouterr().err
    assert "is above train.skip_above_grad_norm 1000, as in 3 updates in a row; no update was made" in err
    assert [line["skipped_generator"] for line in metrics(tmp_path)] == [0, 1, 1, 2, 3]
    lost = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert lost["step"] == 5
    assert len(lost["sample_ids"]) == 8
    assert_same_bits(state(tmp_path, 5), state(tmp_path, 3))


def test_patience_is_resumed_as_it_was(
    main, train_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spike_at(train_module, monkeypatch, [2, 3, 4])
    assert main(arguments(tmp_path, 4, *EVERY, *guarded("1000", "2"))) == 0  # two in a row, saved
    assert main(arguments(tmp_path, 9, *EVERY, *guarded("1000", "2"))) == 1
    assert "as in 3 updates in a row" in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_is_skipped_where_there_is_patience(
    main, train_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spike_at(train_module, monkeypatch, [1], factor=float("inf"))
    assert main(arguments(tmp_path, 3, *EVERY, "--train.max_skips_in_a_row", "1")) == 0
    assert [line["skipped_generator"] for line in metrics(tmp_path)] == [0, 1, 1]
    assert_same_bits(state(tmp_path, 2), state(tmp_path, 1))


def test_a_loss_that_is_not_finite_is_null_in_the_log(main, tmp_path: Path) -> None:
    wild = ["--train.learning_rate", "1e20", "--train.warmup_steps", "0", "--train.max_skips_in_a_row", "2"]
    assert main(arguments(tmp_path, 9, "--train.schedule", "constant", *wild)) == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse)["loss"] for line in lines][-1] is None


def test_a_codebook_moves_once_an_update_and_not_in_a_skipped_one(
    main, train_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    own = EMAVQBottleneck.after_update

    def after_update(self, sums, candidates, *, seed: int):
        seeds.append(seed)
        assert sums["counts"].sum() == 8 * 8 * 12  # of the global batch
        return own(self, sums, candidates, seed=seed)

    monkeypatch.setattr(EMAVQBottleneck, "after_update", after_update)
    spike_at(train_module, monkeypatch, [1])
    setting = [*VARIANTS["ema_vq + gan"], *guarded("1000", "2"), "--train.accumulation", "4"]
    assert main(arguments(tmp_path, 4, *setting)) == 0
    assert len(seeds) == 3
    assert len(set(seeds)) == 3
