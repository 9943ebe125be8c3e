"""Whole runs over streams: stopped, killed, shared out or spoilt, they train the same model or say why in one line."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from latent_ae.cli import main as latent_ae
from latent_ae.training.checkpoint.files import read_checkpoint
from latent_ae.training.data import TrainingData
from latent_ae.training.validation import Heldout
from tests.data.written import encoded, table, write_parquets, write_tar, write_tars
from tests.program.running import arguments, assert_same_bits, kill_after, metrics, start, state, together
from tests.program.variants import Crash

pytestmark = pytest.mark.slow  # whole runs


SIZES = [9, 2, 14, 5, 7]  # 37 images, an epoch of less than five updates
STEPS = 14
STREAM = [
    *("--data.source", "stream", "--data.streams", "4", "--data.shuffle_block", "3", "--data.crop", "random"),
    *("--train.schedule", "constant", "--train.checkpoint_every_steps", "3"),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As the programs that are compared with runs in this process have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tars(folder: Path) -> Path:
    write_tar(folder / "test-0.tar", [(str(row), encoded(900 + row)) for row in range(6)])
    return write_tars(folder, SIZES)


def parquets(folder: Path) -> Path:
    write_parquets(folder, SIZES)
    table([{"bytes": encoded(900 + row), "path": None} for row in range(6)]).to_parquet(folder / "test-0.parquet")
    return folder


def streaming(folder: Path, data: Path, steps: int, *more: str) -> list[str]:
    return arguments(folder, steps, *STREAM, "--data.path", str(data), *more)


def refused(main, capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


def assert_equal_runs(folder: Path, whole: Path) -> None:
    assert metrics(folder) == metrics(whole)
    assert_same_bits(state(folder, STEPS), state(whole, STEPS))
    assert positions(folder, STEPS) == positions(whole, STEPS)


def positions(folder: Path, step: int) -> dict[str, dict[str, int]]:
    """Where each stream is in a checkpoint."""
    checkpoint = read_checkpoint(folder / "run" / "checkpoints" / f"step-{step:08d}")
    return dict(checkpoint.values["data"]["positions"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tars(tmp_path_factory.mktemp("tars"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, train_module: ModuleType, data: Path) -> Path:
    """A run that never stops."""
    folder = tmp_path_factory.mktemp("whole")
    assert train_module.main(streaming(folder, data, STEPS)) == 0
    return folder


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory, train_module: ModuleType, data: Path) -> Path:
    """A run that never stops, of one process that adds up the micro-batches of two."""
    folder = tmp_path_factory.mktemp("accumulated")
    assert train_module.main(streaming(folder, data, STEPS, "--train.accumulation", "2")) == 0
    return folder


# ---------------------------------------------------------------------------------------------- going on, sharing out


def stop_and_go_on(main, folder: Path, data: Path, *stops: int) -> None:
    for steps in (*stops, STEPS):
        assert main(streaming(folder, data, steps)) == 0
        assert any(place["given"] for place in positions(folder, steps).values()), "this is between two blocks"


def test_stopped_twice_in_the_middle_of_an_epoch(whole: Path, data: Path, main, tmp_path: Path) -> None:
    stop_and_go_on(main, tmp_path, data, 7, 10)
    assert_equal_runs(tmp_path, whole)


def test_stopped_in_a_validation_before_the_first_update_after_a_resume(
    whole: Path, data: Path, main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls = Heldout.evaluate, iter(["crash", "signal"])

    def evaluate(self: Heldout, *given: object) -> object:
        match next(calls, ""):
            case "crash":
                raise Crash
            case "signal":
                os.kill(os.getpid(), signal.SIGTERM)
        return own(self, *given)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(Heldout, "evaluate", evaluate)
    argv = streaming(tmp_path, data, STEPS, "--train.evaluate_every_steps", "6")
    with pytest.raises(Crash):
        main(argv)  # after the checkpoint of update 6
    assert main(argv) == 128 + signal.SIGTERM  # which is written again, though no image was read yet
    assert main(argv) == 0
    assert_equal_runs(tmp_path, whole)


def test_stopped_in_the_middle_of_tables(main, tmp_path: Path) -> None:
    data = parquets(tmp_path / "data")
    assert main(streaming(tmp_path / "whole", data, STEPS)) == 0
    stop_and_go_on(main, tmp_path / "stopped", data, 7)
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


def test_a_trainer_that_begins_the_data_again_shows(
    whole: Path, data: Path, main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = property(lambda _: None, lambda _, place: None)
    monkeypatch.setattr(TrainingData, "start", forgotten, raising=False)
    for steps in (7, STEPS):
        assert main(streaming(tmp_path, data, steps)) == 0
    with pytest.raises(AssertionError):
        assert_equal_runs(tmp_path, whole)


def test_worker_processes_do_not_change_a_bit(whole: Path, data: Path, main, tmp_path: Path) -> None:
    assert main(streaming(tmp_path, data, STEPS, "--data.workers", "2")) == 0
    assert_equal_runs(tmp_path, whole)


def test_killed_and_gone_on_with(accumulated: Path, data: Path, main, tmp_path: Path) -> None:
    argv = streaming(tmp_path, data, STEPS, "--train.accumulation", "2")
    kill_after(start([*argv, "--data.workers", "2"]), tmp_path, 7)  # workers read ahead of what is trained
    assert main(argv) == 0
    assert_equal_runs(tmp_path, accumulated)


def test_two_processes_equal_one(accumulated: Path, data: Path, tmp_path: Path) -> None:
    run = together(streaming(tmp_path, data, STEPS, "--data.workers", "1"))
    assert run.returncode == 0, run.stderr
    assert_equal_runs(tmp_path, accumulated)
    assert len(positions(tmp_path, STEPS)) == 4, "the places of the second process's streams are lost"


def test_micro_batches_change_nothing_but_rounding(whole: Path, accumulated: Path) -> None:
    assert positions(accumulated, STEPS) == positions(whole, STEPS)
    for ours, theirs in zip(metrics(accumulated)[:4], metrics(whole), strict=False):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


def test_the_command_line_measures_what_the_run_measured(whole: Path, data: Path, tmp_path: Path) -> None:
    argv = ["evaluate", str(whole / "run" / "model"), "--json", str(tmp_path / "report.json")]
    assert latent_ae([*argv, "--evaluation.size", "16", "--data.source", "stream", "--data.path", str(data)]) == 0
    files = (tmp_path / "report.json", whole / "run" / "evaluation.json")
    report, of_run = (json.loads(file.read_text()) for file in files)
    assert report["images"] == of_run["images"] == 6
    assert report["protocol"]["data"] == "stream, held-out part"
    for name in ("psnr", "ssim", "l1"):
        assert report["metrics"][name]["value"] == pytest.approx(of_run["metrics"][name]["value"], rel=1e-5)


# ------------------------------------------------------------------------------------------------------- spoilt data


def write_nothing(folder: Path) -> None:
    folder.mkdir()


def write_texts(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text("no image")


def write_labels(folder: Path) -> None:
    folder.mkdir()
    table([None] * 8).remove_columns("picture").to_parquet(folder / "train.parquet")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "does not exist"),
        (write_nothing, "cannot be read as a data set of images: EmptyDatasetError: The directory at"),
        (write_texts, "no columns hold images; its columns are text"),
        (write_labels, "no columns hold images; its columns are label (Value int64)"),
    ],
)
def test_data_without_images(
    write: Callable[[Path], None], message: str, main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(tmp_path / "data")
    line = refused(main, capsys, streaming(tmp_path, tmp_path / "data", 2))
    assert message in line
    assert f"data.path {tmp_path / 'data'}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.streams", "3"], "data.streams 3 must be a multiple of processes x train.accumulation = 1 x 1 and"),
        (
            ["--data.streams", "2", "--train.accumulation", "4"],
            "1 x 4 and divide train.batch_size 8: choose one of 4, 8",
        ),
        (["--data.workers", "5"], "data.workers 5 exceeds the 4 streams of each process"),
        (
            ["--data.image_column", "json"],
            "begins with files that end in .json, .png, expected images of data.image_column json",
        ),
    ],
)
def test_settings_that_do_not_fit(
    more: list[str], message: str, main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in refused(main, capsys, streaming(tmp_path, tars(tmp_path / "data"), 2, *more))
    assert not (tmp_path / "run").exists()


def test_a_place_in_other_streams_is_no_place_to_go_on_from(
    data: Path, main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copied = tars(tmp_path / "data")
    assert main(streaming(tmp_path, copied, 3)) == 0
    (copied / "train-1.tar").unlink()
    line = refused(main, capsys, streaming(tmp_path, copied, 5))
    assert line.endswith("1 removed (train-1.tar). Give the old ones back, or give another --name for a new run")
    line = refused(main, capsys, streaming(tmp_path, copied, 5, "--resume", "changed-data"))
    assert "the saved position is in other data (saved -> now): shards " in line


def test_a_truncated_tar_ends_the_run_which_goes_on_once_it_is_whole(
    main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shard = tars(tmp_path / "data") / "train-3.tar"  # is met after the first update
    content = shard.read_bytes()
    more = ["--data.collected_images", "1", "--data.streams", "2", "--train.checkpoint_every_steps", "1"]
    argv = streaming(tmp_path / "cut", tmp_path / "data", STEPS, *more, "--data.workers", "2")
    shard.write_bytes(content[:1000])
    line = refused(main, capsys, argv)
    assert "the shard train-3.tar is cut short: its 1000 bytes do not end as a tar archive: get it again or" in line
    assert len(metrics(tmp_path / "cut")) == 1
    shard.write_bytes(content)
    assert main(argv) == 0
    assert "going on after step 1" in capsys.readouterr().out
    assert main(streaming(tmp_path / "whole", tmp_path / "data", STEPS, *more)) == 0
    assert_equal_runs(tmp_path / "cut", tmp_path / "whole")


def spoilt(folder: Path, images: int, broken: set[int]) -> Path:
    """One shard with some images that are none."""
    pictures = [encoded(row, width=16) for row in range(8)]
    samples = ((f"{row:04d}", b"words" if row in broken else pictures[row % 8]) for row in range(images))
    write_tar(folder / "train-0.tar", samples)
    write_tar(folder / "test-0.tar", [("0", pictures[0])])
    return folder


def skipped(folder: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (folder / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line["reason"] for line in lines}


def test_broken_images_are_listed_once_however_often_they_are_met(main, tmp_path: Path) -> None:
    data = spoilt(tmp_path / "data", 40, {3, 17, 18})
    for steps in (7, 12):  # 96 images, in two goes
        assert main(streaming(tmp_path, data, steps)) == 0
    assert skipped(tmp_path).keys() == {"train-0.tar/0003", "train-0.tar/0017", "train-0.tar/0018"}
    assert all(reason.startswith("it is none of AVIF, ") for reason in skipped(tmp_path).values())


@pytest.mark.parametrize(("last", "status"), [(899, 2), (1150, 0)])
def test_the_share_of_broken_images_is_one_of_the_images_seen(
    last: int, status: int, main, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Read in order. 10 of the first 1000 may be broken, and 12 of 1200.
    broken = {*range(5, 95, 9), last}
    data = spoilt(tmp_path / "data", 1300, broken)
    argv = streaming(tmp_path, data, 12, "--data.streams", "1", "--data.shuffle_block", "1")
    argv += ["--train.batch_size", "100", "--data.crop", "center", "--data.resolution", "8"]
    assert main(argv) == status
    assert skipped(tmp_path).keys() == {f"train-0.tar/{row:04d}" for row in broken}
    assert str(data / "train-0.tar") not in map(os.path.realpath, Path("/proc/self/fd").iterdir()), "left open"
    err = capsys.readouterr().err
    assert ("error: 11 of 1000 training images (1.10%) cannot be used, more than data.max_bad_share 0.01" in err) == (
        status == 2
    )
