"""metrics.jsonl: one whole line a logged step, none twice, none of a step that was not kept."""

import json
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latent_ae.errors import UserError
from latent_ae.io.image import save_png, to_uint8
from latent_ae.training import logging as room
from latent_ae.training.logging import Logbook
from latent_ae.training.settings import RunConfig
from tests.data.images import noise_image


def logbook(folder: Path, *, tracker: str = "none", first_step: int = 0, active: bool = True) -> Logbook:
    config = RunConfig.model_validate(
        {"output_dir": str(folder.parent), "name": folder.name, "train": {"steps": 10, "tracker": tracker}}
    )
    return Logbook(config, first_step=first_step, active=active)


def write_steps(folder: Path, first: int, last: int, loss: float = 0.5) -> None:
    with logbook(folder, first_step=first - 1) as book:
        for step in range(first, last + 1):
            book.advance(4, loss=loss, psnr=20.0)
            book.log(step, {"images_seen": 4 * step, "loss": loss})


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_what_was_given_and_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, *[101.0] * 3, 102.0, 103.0, 105.5, 110.0, 112.0])
    monkeypatch.setattr(room, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with logbook(tmp_path) as book:
        for _ in range(3):
            book.advance(8, loss=0.5, psnr=20.0)
        book.log(3, {"images_seen": 24, "loss": 0.5})
        (batch,) = islice(book.timed(["a batch"]), 1)
        assert batch == "a batch"
        book.advance(8, loss=0.25, psnr=20.0)
        book.log(4, {"images_seen": 32, "loss": 0.25})
    # 24 images between 100 s and 102 s, then 8 between 102 s and 112 s, of which 2.5 s were spent waiting.
    assert lines(tmp_path) == [
        {"step": 3, "images_seen": 24, "loss": 0.5, "images_per_second": 12.0, "data_wait_share": 0.0},
        {"step": 4, "images_seen": 32, "loss": 0.25, "images_per_second": 0.8, "data_wait_share": 0.25},
    ]
    assert list(lines(tmp_path)[0]) == ["step", "images_seen", "loss", "images_per_second", "data_wait_share"]


def test_every_line_is_on_disk_when_it_was_logged(tmp_path: Path) -> None:
    with logbook(tmp_path) as book:
        book.log(1, {"loss": 1.0})
        assert [line["step"] for line in lines(tmp_path)] == [1]


def test_a_resumed_run_drops_the_lines_of_steps_that_were_not_saved(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5, loss=0.5)
    write_steps(tmp_path, 4, 6, loss=0.25)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.5),
        (4, 0.25),
        (5, 0.25),
        (6, 0.25),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("half", ['{"step": 4, "loss": 0.', '{"step": ', "{", '{"loss": 0.5}', "\x00\x00"])
def test_half_a_last_line_is_dropped(tmp_path: Path, half: str) -> None:
    write_steps(tmp_path, 1, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    write_steps(tmp_path, 4, 4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text.rstrip("\n"))
    write_steps(tmp_path, 4, 4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_other_processes_write_and_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    with logbook(folder, tracker="tensorboard", active=False) as book:
        book.advance(4, loss=0.5, psnr=20.0)
        book.log(1, {"loss": 0.5})
        book.say("a word")
    assert not folder.exists()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_other_processes_do_not_cut_the_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    with logbook(tmp_path, first_step=1, active=False):
        pass
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_tensorboard_shows_the_numbers_and_pictures(tmp_path: Path) -> None:
    save_png(tmp_path / "picture.png", to_uint8(noise_image(0), 3))
    with logbook(tmp_path, tracker="tensorboard") as book:
        book.advance(4, loss=0.5, psnr=20.0)
        book.log(1, {"loss": 0.5})
        book.log(2, {"loss": 0.25})
        book.picture(2, "samples", tmp_path / "picture.png")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert "step" not in events.Tags()["scalars"]
    (picture,) = events.Images("samples")
    assert (picture.step, picture.width, picture.height) == (2, 20, 16)


def test_heldout_measures_have_their_file_and_reach_the_tracker(tmp_path: Path) -> None:
    with logbook(tmp_path, tracker="tensorboard") as book:
        book.heldout(4, {"psnr": 20.5, "ssim": 0.5})
    found = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    assert found == [{"step": 4, "heldout_psnr": 20.5, "heldout_ssim": 0.5}]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("heldout_psnr")] == [(4, 20.5)]


def test_a_resumed_run_repeats_no_heldout_line(tmp_path: Path) -> None:
    for first in (0, 2):  # step 4 was measured, but not saved
        with logbook(tmp_path, first_step=first) as book:
            for step in range(first + 2, 7, 2):
                book.heldout(step, {"psnr": float(step)})
    found = [json.loads(line)["step"] for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    assert found == [2, 4, 6]


def test_wandb_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError) as error:
        logbook(tmp_path, tracker="wandb")
    assert str(error.value) == 'train.tracker wandb needs wandb: pip install -e ".[wandb]"'
