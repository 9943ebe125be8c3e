"""A run is finished when all of its results are there and whole; until then the same command finishes it."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from latent_ae.models import load_autoencoder
from latent_ae.models.discriminator import load_discriminator
from tests.program.forked import fork
from tests.program.running import TRAIN, arguments, environment
from tests.program.variants import SMALL_GAN

pytestmark = pytest.mark.slow  # whole runs

Main = Callable[[list[str]], int]
GAN = ["--adversarial.loss", "hinge", *SMALL_GAN, "--train.schedule", "constant"]
STAGES = ["draw_pictures", "write_atomically", "save_discriminator", "_write_model"]
"""of the result step, in their order"""


class Killed(BaseException):
    """Ends a run where it is, as nothing catches it."""


@pytest.fixture(scope="module")
def whole(train_module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with an adversary."""
    from tests.program.running import here

    folder = tmp_path_factory.mktemp("whole")
    assert here(train_module)(arguments(folder, 2, *GAN)) == 0
    return folder / "run"


def assert_finished(run: Path, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    load_autoencoder(str(run / "model"))
    load_discriminator(run / "discriminator", in_channels=1)
    assert not [path for path in run.iterdir() if path.name.startswith(".partial-")]
    capsys.readouterr()
    assert main(arguments(run.parent, 2, *GAN)) == 0
    assert f"{run} is finished" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_any_stage_of_the_result_the_same_command_finishes_it(
    stage: str, whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for name in ("model", "discriminator"):
        shutil.rmtree(run / name)

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"latent_ae.training.model_directory.{stage}", kill)
        with pytest.raises(Killed):
            main(arguments(tmp_path, 2, *GAN))
    assert not (run / "model").exists(), "the mark of a finished run comes last"
    assert main(arguments(tmp_path, 2, *GAN)) == 0
    assert_finished(run, main, capsys)


def test_a_finished_run_without_checkpoints_is_not_trained_over(
    whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")  # a user who needs the room
    metrics = (run / "metrics.jsonl").read_bytes()
    assert main(arguments(tmp_path, 2, *GAN)) == 2
    assert f"{run} is finished and has no checkpoints: give another --name" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == metrics


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


HARMS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no weights": ("model/diffusion_pytorch_model.safetensors", Path.unlink),
    "empty weights": ("model/diffusion_pytorch_model.safetensors", lambda path: path.write_bytes(b"")),
    "cut weights": ("model/diffusion_pytorch_model.safetensors", cut),
    "an empty config": ("model/config.json", lambda path: path.write_bytes(b"")),
    "no statistics": ("model/latent_stats.json", Path.unlink),
    "no discriminator": ("discriminator", shutil.rmtree),
    "an empty discriminator": ("discriminator/model.safetensors", lambda path: path.write_bytes(b"")),
    "a discriminator without config": ("discriminator/config.json", Path.unlink),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_result_is_not_a_finished_run(
    harm: str, whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    name, do = HARMS[harm]
    do(run / name)
    assert main(arguments(tmp_path, 2, *GAN)) == 0
    out = capsys.readouterr().out
    assert str(run / name.split("/", maxsplit=1)[0]) in out
    assert "the results are written again" in out
    assert_finished(run, main, capsys)


def test_a_full_disk_in_the_result_is_one_line_and_the_run_can_be_finished(
    whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, argv = Path(shutil.copytree(whole, tmp_path / "run")), arguments(tmp_path, 2, *GAN)
    weights = run / "model" / "diffusion_pytorch_model.safetensors"
    limit = weights.stat().st_size - 1
    shutil.rmtree(run / "model")
    full = fork(TRAIN, argv, environment(), file_bytes=limit).finished()
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1] == f"error: File too large: {run / 'model'}"
    assert "Traceback" not in full.stderr
    assert not (run / "model").exists()
    assert main(argv) == 0
    assert_finished(run, main, capsys)


@pytest.mark.parametrize("stage", STAGES)
def test_whatever_of_the_result_does_not_fit_is_one_line(
    stage: str, whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "model")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "here")

    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"latent_ae.training.model_directory.{stage}", fail)
        assert main(arguments(tmp_path, 2, *GAN)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: No space left on device: here"
    assert not (run / "model").exists()
