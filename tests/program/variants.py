"""Tiny runs of every kind, and when two runs are the same."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from latent_ae.models import Autoencoder, load_autoencoder
from tests.program.running import arguments, assert_same_bits, metrics, state

NO_KL = ["--loss.beta", "null", "--loss.beta_schedule", "constant", "--loss.beta_warmup_steps", "0"]
"""the recipe's KL left out"""
SMALL_GAN = ["--adversarial.layers", "1", "--adversarial.width", "4"]

VARIANTS: dict[str, list[str]] = {
    # The discriminator starts in update 3, and the autoencoder sees it from update 5 on.
    "kl + gan": [
        *("--adversarial.loss", "hinge", *SMALL_GAN, "--adversarial.start_step", "4"),
        *("--adversarial.warmup_steps", "2", "--adversarial.lecam_weight", "0.05", "--adversarial.r1_weight", "0.2"),
        *("--loss.reconstruction", "gaussian_nll", "--loss.latent_noise", "0.1", "--data.crop", "random"),
    ],
    "ema_vq + gan": [
        *NO_KL,
        *("--bottleneck.kind", "ema_vq", "--bottleneck.codebook_size", "16", "--bottleneck.revive_below", "0.5"),
        *("--adversarial.loss", "non_saturating", *SMALL_GAN, "--adversarial.adaptive", "false"),
        *("--adversarial.weight", "0.1", "--adversarial.learning_rate", "5e-4", "--loss.entropy_weight", "0.05"),
        *("--data.fit", "pad", "--data.resolution", "16", "24"),  # a third of every image is padding
    ],
    "fsq": [*NO_KL, "--bottleneck.kind", "fsq", "--bottleneck.levels", "5", "3", "--data.resolution", "8", "24"],
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)
SOON_DEAD = 0.5
"""instead of quantizer.USAGE_DECAY: an unused code is dead, and revived, after two updates instead of 69"""


@pytest.fixture
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, as the programs beside this one have, and codes that die within a tiny run."""
    monkeypatch.setattr("latent_ae.models.bottlenecks.quantizer.USAGE_DECAY", SOON_DEAD)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Crash(Exception):  # noqa: N818 - what the program does not expect
    """The program ends in the middle of a step."""


def at_steps(
    train_module: ModuleType, monkeypatch: pytest.MonkeyPatch, steps: Sequence[int], action: Callable[[int], None]
) -> None:
    """Have a run in this process do something after some of its updates, before what is due is saved; once each."""
    own, left = train_module.AutoencoderTraining.log_line, set(steps)

    def log_line(self: object, step: int, result: object) -> object:
        if step in left:
            left.remove(step)
            action(step)
        return own(self, step, result)

    monkeypatch.setattr(train_module.AutoencoderTraining, "log_line", log_line)


def assert_same_run(ours: Path, theirs: Path, step: int) -> None:
    """Every logged number and every bit of a checkpoint: tensors of both sides, counters, the encoder's identity."""
    assert metrics(ours) == metrics(theirs)
    assert_same_bits(state(ours, step), state(theirs, step))
    assert _counters(ours, step) == _counters(theirs, step)


def assert_close_run(ours: Path, theirs: Path, step: int) -> None:
    """All that is trained or averaged, to 1e-6, and every logged number."""
    one, other = state(ours, step), state(theirs, step)
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        if "optimizer" not in name:
            torch.testing.assert_close(one[name], tensor, atol=1e-6, rtol=0, msg=lambda text, n=name: f"{n}: {text}")
    for line, expected in zip(metrics(ours), metrics(theirs), strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-6)


def _counters(folder: Path, step: int) -> object:
    return json.loads((folder / "run" / "checkpoints" / f"step-{step:08d}" / "trainer.json").read_text())


def finetune_arguments(folder: Path, steps: int, init_from: Path, *more: str) -> list[str]:
    """Of a run that goes on from a model directory."""
    argv = arguments(folder, steps, "--model.init_from", str(init_from), *NO_KL, *more)
    place = argv.index("--model.preset")
    del argv[place : place + 2]
    return argv


def exported(folder: Path) -> Autoencoder:
    return load_autoencoder(str(folder / "run" / "model"))
