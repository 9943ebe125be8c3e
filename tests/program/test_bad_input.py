"""Each mistake ends with one clear line and a non-zero status."""

from pathlib import Path

import pytest
from PIL import Image

from latent_ae.data import FolderConfig
from latent_ae.data.source import hash_place
from latent_ae.training.checkpoint.files import newest_whole
from tests.program.forked import Finished, fork
from tests.program.running import TRAIN, arguments, environment


def refused(main, capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train.stepz", "1"], "unknown setting --train.stepz; did you mean --train.steps?"),
        (["--train.batch_size", "many"], "train.batch_size: got 'many'"),
        (["--loss.beta", "-1"], "loss.beta: got '-1'; input should be greater than or equal to 0"),
        (["--model.image_channels", "65"], "model.image_channels: got '65'; input should be less than or equal to 64"),
        (["--data.resolution", "17"], "data.resolution 17 is not a multiple of the model's factor 2: take 16"),
        (["--model.preset", "huge"], "unknown model.preset 'huge'"),
        (["--data.source", "nowhere"], "data.source: got 'nowhere', expected one of digits"),
        (["--resume", "no/such/checkpoint"], "no/such/checkpoint is not a checkpoint: it does not exist"),
        (["--train.accumulation", "3"], "train.batch_size 8 must be a multiple of train.accumulation 3"),
        (["--loss.perceptual_weights_file", "nowhere.pth"], "loss.perceptual_weights_file has no effect"),
    ],
)
def test_settings(main, capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], message: str) -> None:
    assert message in refused(main, capsys, arguments(tmp_path, 2, *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sizes", "part"), [({}, "held-out"), ({"heldout": 64}, "training")], ids=["held-out", "training"]
)
def test_images_too_small_to_measure_end_the_run_before_training(
    sizes: dict[str, int], part: str, *, main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = ["--data.source", "folder", "--data.path", str(tmp_path / "images"), "--data.heldout_share", "0.5"]
    (tmp_path / "images").mkdir()
    for number in range(8):
        name = f"{number}.png"
        side = sizes.get("heldout" if hash_place(name) < 0.5 else "train", 16)
        Image.new("L", (side, side), 30 * number).save(tmp_path / "images" / name)
    line = refused(main, capsys, arguments(tmp_path, 2, *source, "--evaluation.size", "128"))
    assert f" {part} images to measure can be used at evaluation.size 128; the first is " in line
    assert "too small: got 16x16, need 8 pixels a side and a quarter of 128x128: lower it" in line
    assert not (tmp_path / "run").exists()


def test_a_run_ends_well_where_none_of_the_images_to_show_can_be_used(main, tmp_path: Path) -> None:
    source = ["--data.source", "folder", "--data.path", str(tmp_path / "images"), "--data.heldout_share", "0.5"]
    (tmp_path / "images").mkdir()
    names = [f"{number:03}.png" for number in range(200)]
    heldout = [name for name in names if hash_place(name) < 0.5][:32]  # every second of which is shown
    trained = [name for name in names if hash_place(name) >= 0.5][:8]
    for place, name in enumerate(heldout + trained):
        side = 64 if place % 2 or name in trained else 16
        Image.linear_gradient("L").resize((side, side)).rotate(place).save(tmp_path / "images" / name)
    sizes = ["--evaluation.size", "128", "--evaluation.max_images", "32"]
    assert main(arguments(tmp_path, 1, *source, *sizes, "--train.warmup_steps", "0")) == 0
    assert "reconstructions.png" not in {file.name for file in (tmp_path / "run" / "model").iterdir()}


def test_folders_without_images(main, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    for name, message in (("empty", "empty"), ("texts", ".txt"), ("missing", "missing")):
        argv = arguments(tmp_path, 2, "--data.source", "folder", "--data.path", str(tmp_path / name))
        assert message in refused(main, capsys, argv)


def test_a_folder_that_is_not_a_checkpoint(main, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is not a checkpoint: it has no manifest.json" in refused(
        main, capsys, arguments(tmp_path, 2, "--resume", str(tmp_path))
    )


def test_a_resume_with_other_settings_prints_the_difference(
    main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments(tmp_path, 2)) == 0
    capsys.readouterr()
    line = refused(main, capsys, arguments(tmp_path, 2, "--loss.beta", "0.25", "--train.max_grad_norm", "null"))
    assert "loss.beta: 1.0 -> 0.25" in line or "loss.beta:" in line
    assert "train.max_grad_norm:" in line
    assert "-> None" in line


def test_never_resume_does_not_touch_a_run(main, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(arguments(tmp_path, 2)) == 0
    capsys.readouterr()
    assert "already holds checkpoints" in refused(main, capsys, arguments(tmp_path, 2, "--resume", "never"))


def test_missing_lpips_weights_end_the_run_before_training(
    main, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    line = refused(main, capsys, arguments(tmp_path, 2, "--loss.perceptual", "squeeze", "--data.resolution", "32"))
    assert "squeezenet1_1-b8a52dc0.pth" in line
    assert "loss.perceptual_weights_file" in line
    assert not (tmp_path / "run").exists()


def _no_network(*arguments: object, **options: object) -> None:
    raise OSError("the network is unreachable")


def test_too_many_broken_images_end_the_run_and_are_listed(
    main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        Image.new("L", (16, 16), 12 * number).save(images / f"{number:02d}.png")
    train = FolderConfig(path=str(images), heldout_share=0.2).open().train
    for index in (3, 7):
        file = images / train.sample_id(index)
        file.write_bytes(file.read_bytes()[:40])
    argv = arguments(tmp_path, 20, "--data.source", "folder", "--data.path", str(images), "--data.heldout_share", "0.2")
    line = refused(main, capsys, [*argv, "--data.max_bad_share", "0.1"])
    assert "skipped.jsonl" in line
    listed = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert len(listed) == 2
    # With the bad images within the share the run goes through.
    assert main([*argv, "--data.max_bad_share", "0.5", "--name", "tolerant"]) == 0


@pytest.mark.slow  # starts the program under a limit that the kernel enforces
def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    def run(steps: int, limit: int | None) -> Finished:
        argv = arguments(tmp_path, steps, "--train.checkpoint_every_steps", "2", "--train.schedule", "constant")
        return fork(TRAIN, argv, environment(), file_bytes=limit).finished()

    assert run(2, None).returncode == 0
    full = run(6, 60_000)
    assert full.returncode == 2
    errors = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "cannot write the checkpoint" in errors[0]
    assert "File too large" in errors[0]
    assert "Traceback" not in full.stderr
    path, notes = newest_whole(tmp_path / "run" / "checkpoints")
    assert path is not None
    assert (path.name, notes) == ("step-00000002", [])
    assert run(6, None).returncode == 0
