"""train/encode_dataset.py as it is run: alone, by several processes, killed, on a full disk."""

import os
import random
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from PIL import Image

from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from tests.latent_dataset.made import files, index
from tests.program.forked import PATIENCE, ROOT, Group, fork
from tests.program.running import environment, here, load_program, together

PROGRAM = ROOT / "train" / "encode_dataset.py"
KILLS = 5
IMAGES = 2000
SHARDS = 40

pytestmark = pytest.mark.slow  # every run is a program


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 images of 16 x 16 pixels, a few of them damaged or twice there."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        noise = draw.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:04d}.bmp")
    for number in (17, 600, 1999):
        (folder / f"{number:04d}.bmp").write_bytes(b"damaged")
    (folder / "0100.bmp").write_bytes((folder / "0099.bmp").read_bytes())
    return folder


Asked = Callable[..., list[str]]
Main = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def asked(model: Path, pictures: Path) -> Asked:
    """The command line's words for an `out`, with more of them behind, which go before."""

    def words(out: Path, *more: str) -> list[str]:
        data = ["--data.source", "folder", "--data.path", str(pictures), "--part", "all"]
        return ["--model", str(model), *data, "--shard_images", str(IMAGES // SHARDS), "--out", str(out), *more]

    return words


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load_program(PROGRAM)


@pytest.fixture(scope="module")
def main(program: ModuleType) -> Main:
    return here(program)


@pytest.fixture(scope="module")
def whole(asked: Asked, main: Main, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes without interruption."""
    out = tmp_path_factory.mktemp("whole") / "latents"
    assert main(asked(out)) == 0
    return out


def test_two_processes_make_what_one_makes(asked: Asked, whole: Path, tmp_path: Path) -> None:
    done = together(asked(tmp_path / "latents"), PROGRAM)
    assert done.returncode == 0, done.stderr
    assert "by 2 processes on cpu: 40 shards" in done.stdout
    assert "1997 rows in" in done.stdout
    assert "3 are left out" in done.stdout
    assert "1 images are the same as an earlier one" in done.stdout
    assert files(tmp_path / "latents") == files(whole)
    names = [row["name"] for row in index(whole)]
    assert len(names) == len(set(names)) == IMAGES - 3


def kill_all(group: Group) -> None:
    """SIGKILL for all processes and everything that they started, at once."""
    everyone = [
        each
        for rank in group.ranks
        for each in (psutil.Process(rank.pid), *psutil.Process(rank.pid).children(recursive=True))
    ]
    for each in everyone:
        each.send_signal(signal.SIGKILL)
    for rank in group.ranks:
        assert rank.wait() == -signal.SIGKILL
    psutil.wait_procs(everyone, timeout=60)


def shards_of(out: Path) -> int:
    return len(list((out / "shards").glob("*.json")))


def killed_again_and_again(argv: list[str], out: Path, kills: int) -> Iterator[int]:
    """Start two processes, SIGKILL them at a random moment soon after some shards; gives how many there are then."""
    chance = random.Random(0)
    for number in range(kills):
        group = Group(PROGRAM, argv, environment())
        target = max(1, (number + 1) * (SHARDS - 4) // kills)
        deadline = time.monotonic() + PATIENCE
        while shards_of(out) < target:
            assert [rank.poll() for rank in group.ranks] == [None, None]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        kill_all(group)
        yield shards_of(out)


def test_killed_at_random_moments_it_ends_in_the_bytes_of_an_uninterrupted_run(
    asked: Asked, whole: Path, main: Main, tmp_path: Path
) -> None:
    out = tmp_path / "latents"
    argv = asked(out)
    reached = list(killed_again_and_again(argv, out, KILLS))
    assert reached == sorted(reached)
    assert not (out / "index.parquet").exists()
    assert main(argv) == 0
    assert files(out) == files(whole)


def test_sigterm_keeps_what_is_complete(
    asked: Asked, whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latents"

    def send() -> None:
        while shards_of(out) < 2:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    status = main(asked(out))
    sender.join()
    assert status == 128 + signal.SIGTERM
    assert "SIGTERM: complete shards are kept, the same command resumes" in capsys.readouterr().out
    assert 2 <= shards_of(out) < SHARDS
    assert main(asked(out)) == 0
    assert files(out) == files(whole)


def test_a_full_disk_is_one_line_and_what_is_complete_stays(
    asked: Asked, whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files takes the place of a full disk, after three shards."""
    out = tmp_path / "latents"
    (out / "shards").mkdir(parents=True)
    for name in ("manifest.json", *(f"shards/{n:05d}.{kind}" for n in range(3) for kind in ("json", "safetensors"))):
        shutil.copy(whole / name, out / name)
    there = files(out)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, before[1]))
    try:
        assert main(asked(out)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert re.fullmatch(
        r"error: File too large: .*: complete shards are kept, the same command resumes\n",
        capsys.readouterr().err,
    )
    assert files(out) == there
    assert main(asked(out)) == 0
    assert files(out) == files(whole)


def test_a_finished_folder_is_left_alone_and_another_encoder_refused(
    asked: Asked, whole: Path, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(whole)
    assert main(asked(whole)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{whole} is complete"
    build_autoencoder(ModelConfig(preset="tiny"), seed=1, resolution=16).save_pretrained(tmp_path / "other")
    assert main(asked(whole, "--dtype", "float32", "--model", str(tmp_path / "other"))) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: .* holds other latents; there -> asked for: dtype: float16 -> float32; encoder.identity: \w+ -> \w+: "
        r"take another --out\n",
        error,
    )
    assert files(whole) == before


def test_wrong_settings_are_one_line(
    asked: Asked, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, message in (
        (["--model", "x"], "--data.path FOLDER or --data.source NAME is required; --help shows examples"),
        (asked(tmp_path, "--data.resolution", "16"), "is a setting of training crops and has no effect here"),
        (asked(tmp_path, "--dtipe", "x"), "unknown setting --dtipe; did you mean --dtype?"),
        (asked(tmp_path, "--model", str(tmp_path / "none")), "there is no such folder or file"),
        (asked(tmp_path, "--data.path", str(tmp_path / "none")), "does not exist"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit, match="0"):
        main(["--help", "all"])
    assert "--shard_images" in capsys.readouterr().out


def test_machines_that_share_no_folder_all_end(asked: Asked, tmp_path: Path) -> None:
    nodes = [tmp_path / "one", tmp_path / "two"]
    for node in nodes:
        node.mkdir()
    group = Group(PROGRAM, asked(Path("latents")), environment(), folders=nodes)
    try:
        assert [rank.wait() for rank in group.ranks] == [2, 2]
    finally:
        group.kill()
    errors = "".join(rank.communicate()[1] for rank in group.ranks)
    assert re.findall("error: .*", errors) == [
        "error: latents has no manifest.json for one of the processes: --out must be one folder that all machines share"
    ]
    assert not list(nodes[1].iterdir())


def test_processes_that_form_no_group_are_an_error(asked: Asked, tmp_path: Path) -> None:
    """What `accelerate launch --cpu --num_processes 2` starts: see tests/program/test_ranks.py."""
    launched = environment(ACCELERATE_USE_CPU="True", MASTER_PORT="29500")
    done = fork(PROGRAM, asked(tmp_path / "latents"), launched).finished()
    assert done.returncode == 2
    assert "several CPU processes were asked for" in done.stderr
    assert not (tmp_path / "latents").exists()
