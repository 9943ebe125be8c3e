"""The result has the best weights, the same wherever the run was stopped and on however many processes it trains."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from latent_ae.evaluation.run import Networks
from latent_ae.models import load_autoencoder
from latent_ae.training.best import HIGHER_IS_BETTER
from latent_ae.training.validation import Heldout
from tests.program.running import arguments, assert_same_bits, here, state
from tests.program.test_bad_input import refused
from tests.program.variants import Crash, at_steps
from tests.program.variants import small_and_quick as small_and_quick  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_and_quick", "lowest")]  # whole runs

Main = Callable[[list[str]], int]
STEPS = 10
KEEP = [
    *("--train.keep_best", "psnr", "--train.evaluate_every_steps", "2"),
    *("--train.checkpoint_every_steps", "4", "--train.keep_checkpoints", "2"),
]
EARLY = [*KEEP, "--train.patience", "2", "--train.min_improvement", "1000"]
"""only the first validation, after update 2, improves enough: the run ends after update 6"""


@pytest.fixture(scope="module")
def lowest() -> Iterator[None]:
    """The worst weights count as the best: in a run that learns they are not the last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HIGHER_IS_BETTER, "psnr", False)
        yield


@pytest.fixture(scope="module")
def whole(lowest: None, train_module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never stops."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert here(train_module)(arguments(folder, STEPS, *KEEP)) == 0
    torch.set_num_threads(threads)
    return folder


def validations(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "run" / "heldout.jsonl").read_text().splitlines()]
    return {line["step"]: line["heldout_psnr"] for line in lines}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "model" / "diffusion_pytorch_model.safetensors")


def test_the_result_has_the_weights_of_the_best_validation(whole: Path, main: Main, tmp_path: Path) -> None:
    found = validations(whole)
    assert list(found) == [2, 4, 6, 8, 10], "the last weights are compared too"
    best = min(found, key=found.__getitem__)
    assert best < STEPS, "or this shows nothing"
    argv = [*arguments(tmp_path, STEPS), "--train.checkpoint_every_steps", str(best), "--train.keep_checkpoints", "9"]
    assert main(argv) == 0
    stem = f"checkpoints/step-{best:08d}/ema.safetensors"
    assert_same_bits(weights(whole), load_file(tmp_path / "run" / stem))
    last = weights(tmp_path)
    assert not any(torch.equal(tensor, last[name]) for name, tensor in weights(whole).items())
    report = json.loads((whole / "run" / "evaluation.json").read_text())
    assert report["metrics"]["psnr"]["value"] == found[best], "measured again, the result is as good"
    assert report["protocol"]["weights"].startswith(f"weights of update {best}, the best of 5 validations by psnr: ")
    assert report["protocol"]["weights"] in (whole / "run" / "model" / "README.md").read_text()
    assert {path.name for path in (whole / "run" / "samples").iterdir()} >= {f"step-{best}.png"}
    # A checkpoint as a model is what the run would export.
    loaded = load_autoencoder(str(whole / "run" / "checkpoints" / f"step-{STEPS:08d}"))
    assert_same_bits(dict(loaded.named_parameters()), weights(whole))


def test_stopped_by_a_signal_a_crash_and_in_a_validation(
    whole: Path, main: Main, train_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(step: int) -> None:
        if step == 7:
            raise Crash
        os.kill(os.getpid(), signal.SIGTERM)

    at_steps(train_module, monkeypatch, [3, 7], stop)
    own, calls = Heldout.evaluate, iter(["signal", "", "", "crash"])

    def evaluate(self: Heldout, *given: object) -> object:
        match next(calls, ""):
            case "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            case "crash":
                raise Crash
        return own(self, *given)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(Heldout, "evaluate", evaluate)
    argv = arguments(tmp_path, STEPS, *KEEP)
    assert main(argv) == 128 + signal.SIGTERM  # in the validation after update 2
    assert main(argv) == 128 + signal.SIGTERM  # that one made, and stopped at update 3
    for _ in range(2):
        with pytest.raises(Crash):
            main(argv)  # in the validation after update 6, then at update 7; both go on from update 4
    assert main(argv) == 0
    assert validations(tmp_path) == validations(whole)
    assert_same_bits(weights(tmp_path), weights(whole))
    assert_same_bits(state(tmp_path, STEPS), state(whole, STEPS))


def test_patience_ends_a_run_that_stays_finished_and_can_be_given_more(
    whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = arguments(tmp_path, STEPS, *EARLY)

    def killed(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Heldout, "measure_training_latents", killed)
        with pytest.raises(Crash):
            main(argv)
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "psnr has not improved in 2 validations: the run ends after update 6 of 10" in said
    assert main(argv) == 0
    assert f"{tmp_path / 'run'} is finished" in capsys.readouterr().out
    assert validations(tmp_path) == {step: validations(whole)[step] for step in (2, 4, 6)}
    assert "for 6 steps of 8 images. It has the weights of update" in (tmp_path / "run/model/README.md").read_text()
    # With more patience it goes on as one that had it from the start.
    assert main(arguments(tmp_path, STEPS, *KEEP)) == 0
    assert_same_bits(weights(tmp_path), weights(whole))
    assert validations(tmp_path) == validations(whole)


def test_the_best_outlives_the_checkpoints_of_its_time(whole: Path, main: Main, tmp_path: Path) -> None:
    names = sorted(path.name for path in (whole / "run" / "checkpoints").iterdir())
    assert names == ["step-00000008", f"step-{STEPS:08d}"], "that of the best update is not among them"
    run = Path(shutil.copytree(whole / "run", tmp_path / "run"))
    shutil.rmtree(run / "model")
    assert main(arguments(tmp_path, STEPS, *KEEP)) == 0
    assert_same_bits(weights(tmp_path), weights(whole))


def test_what_cannot_be_measured_is_refused_before_the_first_update(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def argv(measure: str, *more: str) -> list[str]:
        return arguments(tmp_path, STEPS, *more, "--train.keep_best", measure, "--train.evaluate_every_steps", "2")

    line = refused(main, capsys, argv("ms_ssim"))
    assert line == "error: train.keep_best ms_ssim needs evaluation.size of at least 176 pixels, got 16"
    networks = Networks("not asked for", "no file of weights")
    monkeypatch.setattr("latent_ae.training.validation.build_networks", lambda *_: networks)
    line = refused(main, capsys, argv("rfid", "--evaluation.fid", "true"))
    assert line == "error: train.keep_best rfid cannot be measured: no file of weights"
