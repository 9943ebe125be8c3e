"""What a later run of `encode`, `decode` and `reconstruct` keeps, and what becomes of one that is stopped."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderKL
from PIL import Image

from latent_ae.io.image_writing import read_record
from tests.cli.conftest import FP32, Run, state
from tests.data.images import noise_image
from tests.program.forked import fork
from tests.program.running import environment


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_a_second_run_makes_nothing_anew(command: str, models: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    words = (command, photos, "-o", photos / "out", "--model", models / "kl", *FP32)
    assert run(*words)[0] == 0
    before = state(photos / "out")
    status, said, errors = run(*words)
    assert (status, errors) == (0, [])
    assert (
        said
        == f"{command}{'ed' if command[-1] == 't' else 'd'} 0 of 7 files into {photos / 'out'}, 7 were there already\n"
    )
    assert state(photos / "out") == before


def test_what_is_missing_damaged_or_of_another_source_is_made_anew(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    for command, suffix in (("encode", "safetensors"), ("reconstruct", "png")):
        out = tmp_path / command
        words = (command, photos, "-o", out, "--model", models / "kl", *FP32)
        run(*words)
        whole = state(out)
        (out / f"a.{suffix}").unlink()
        (out / f"b.{suffix}").write_bytes(whole[f"b.{suffix}"][1][:-9])
        flipped = bytearray(whole[f"odd.{suffix}"][1])
        flipped[-40 if suffix == "png" else 20] ^= 0x40
        (out / f"odd.{suffix}").write_bytes(flipped)
        (out / f"sub/a.{suffix}").write_bytes(b"something else")
        noise_image(77 if command == "encode" else 78).save(photos / "sub" / "c.png")
        assert run(*words)[1].endswith("2 were there already\n")
        after = state(out)
        assert {name for name in whole if after[name][1] != whole[name][1]} == {f"sub/c.{suffix}"}
        kept = {name for name in whole if after[name] == whole[name]}
        assert kept == {f"a.tif.{suffix}", f"sub/tall.{suffix}"}


@pytest.mark.parametrize(
    "changes",
    [
        {"--model": "other"},
        {"--dtype": "float16"},
        {"--sample": None},
        {"--precision": "exact"},
        {"--logvar": None},
    ],
)
def test_other_options_make_everything_anew(
    changes: dict[str, str | None], models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    def words(options: dict[str, str | None]) -> list[object]:
        given = {"--model": "kl", "--precision": "fp32", **options}
        given["--model"] = str(models / str(given["--model"]))
        return ["encode", photos, "-o", tmp_path / "out", *(word for pair in given.items() for word in pair if word)]

    run(*words({}))
    assert run(*words(changes))[1] == f"encoded 7 of 7 files into {tmp_path / 'out'}\n"
    assert run(*words(changes))[1].endswith("7 were there already\n")
    assert run(*words({}))[1] == f"encoded 7 of 7 files into {tmp_path / 'out'}\n"


def test_another_decoder_of_the_same_encoder_makes_everything_anew(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    model = AutoencoderKL.from_pretrained(models / "kl")
    model.decoder.conv_out.bias.data += 0.5
    model.save_pretrained(tmp_path / "lighter")
    run("encode", photos, "-o", tmp_path / "latents", "--model", models / "kl", *FP32)
    decode = ("decode", tmp_path / "latents", "-o", tmp_path / "out", *FP32, "--model")
    run(*decode, models / "kl")
    before = np.asarray(Image.open(tmp_path / "out" / "a.png")).mean()
    assert "already" not in run(*decode, tmp_path / "lighter")[1]
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).mean() > before + 10


class FailingSync:
    """Stands in for os.fsync, and after some calls (two a file: it and its folder) for a full disk or for Ctrl-C."""

    def __init__(self, calls: int, fail: Callable[[], object]) -> None:
        self.left = calls
        self.fail = fail
        self.lock = threading.Lock()

    def __call__(self, handle: int) -> None:
        with self.lock:
            self.left -= 1
        if self.left < 0:
            self.fail()


def disk_is_full() -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_ends_the_run(
    models: Path, photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("encode", photos, "-o", tmp_path / "out", "--model", models / "kl", *FP32)
    monkeypatch.setattr("latent_ae.inference.file_jobs.WRITERS", 1)  # several may have begun a third file
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", FailingSync(4, disk_is_full))
        status, _, errors = run(*words)
    assert (status, errors) == (1, [f"No space left on device: {tmp_path / 'out' / 'b.safetensors'}"])
    assert len(state(tmp_path / "out")) == 2
    assert run(*words)[1] == f"encoded 5 of 7 files into {tmp_path / 'out'}, 2 were there already\n"
    assert len(state(tmp_path / "out")) == 7


def test_an_interrupted_run_goes_on_where_it_was(
    models: Path, photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latent_ae.inference.file_jobs.BATCH_COUNT", 2)
    monkeypatch.setattr("latent_ae.inference.file_jobs.WRITERS", 1)
    words = ("reconstruct", photos, "-o", tmp_path / "out", "--model", models / "kl", "--precision", "exact")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", FailingSync(6, lambda: signal.raise_signal(signal.SIGINT)))
        status, said, errors = run(*words)
    assert (status, said) == (130, "")
    assert errors == ["interrupted: every file that was written is complete; the same command continues from there"]
    half = state(tmp_path / "out")
    assert 3 <= len(half) <= 4
    assert run(*words)[1].endswith(f"{len(half)} were there already\n")
    done = state(tmp_path / "out")
    assert len(done) == 7
    assert half.items() <= done.items()
    run(*words[:3], tmp_path / "at once", *words[4:])
    assert {name: data for name, (_, data) in state(tmp_path / "at once").items()} == {
        name: data for name, (_, data) in done.items()
    }


@pytest.mark.slow  # a new process
def test_ctrl_c_ends_in_one_line(models: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(200):  # seconds of work: it must not be over when the signal comes
        noise_image(number, 160, 128).save(tmp_path / "photos" / f"{number}.bmp")
    out = tmp_path / "out"
    argv = ["reconstruct", str(tmp_path / "photos"), "-o", str(out), "--model", str(models / "kl"), *FP32]
    process = fork("latent_ae.cli:main", argv, environment())
    while process.poll() is None and not (out.exists() and len(list(out.glob("*.png"))) > 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate()
    assert (process.returncode, said) == (130, ""), told
    interrupted = "error: interrupted: every file that was written is complete; the same command continues from there"
    assert told.splitlines() == ["encoder fp32; decoder fp32; images whole", interrupted]
    files = list(out.iterdir())
    assert 5 < len(files) < 200
    records = [read_record(file) for file in files]
    assert all(record is not None and record[0]["what"] == "reconstruct" for record in records)
