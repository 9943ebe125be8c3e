"""Several processes go on from one place, or not at all."""

from collections.abc import Callable
from typing import Any

import pytest
from accelerate import Accelerator

from latent_ae.training.checkpoint import resume
from latent_ae.training.checkpoint.files import Checkpoint, CheckpointError
from latent_ae.training.checkpoint.resume import Found, agreed_checkpoint, require_same

SAVED: Found = (Checkpoint(3, {}, {}, ""), ["a note"])
Agree = Callable[..., Found]


@pytest.fixture
def agree(monkeypatch: pytest.MonkeyPatch) -> Agree:
    """`agreed_checkpoint` beside a process that answers with `problem` and `place`."""

    def agreed(find: Callable[[], Found], *, problem: str | None, place: str, finished: bool = False) -> Found:
        other: list[Any] = [problem, place]
        monkeypatch.setattr(resume, "gather_from_processes", lambda own, _: [other.pop(0), own])
        return agreed_checkpoint(find, "runs", Accelerator(cpu=True), finished=finished)

    return agreed


def broken() -> Found:
    raise CheckpointError("wrong here")


def test_processes_that_find_the_same_go_on(agree: Agree) -> None:
    assert agree(lambda: SAVED, problem=None, place="step 3") is SAVED
    assert agree(lambda: (None, []), problem=None, place="no checkpoint") == (None, [])
    assert agree(lambda: SAVED, problem=None, place="step 3, finished", finished=True) is SAVED


def test_one_process_goes_on_where_it_was() -> None:
    alone = agreed_checkpoint(lambda: SAVED, "", Accelerator(cpu=True), finished=True)
    assert alone is SAVED


@pytest.mark.parametrize("place", ["no checkpoint", "step 4", "step 3, finished"])
def test_folders_that_are_not_shared_are_refused(agree: Agree, place: str) -> None:
    told = rf"in output_dir runs \(process 0: {place}; process 1: step 3\): it must be one folder that all machines"
    with pytest.raises(CheckpointError, match=told):
        agree(lambda: SAVED, problem=None, place=place)


def test_what_one_process_finds_wrong_ends_all(agree: Agree) -> None:
    with pytest.raises(CheckpointError, match=r"^wrong there$"):
        agree(lambda: SAVED, problem="wrong there", place="step 3")
    with pytest.raises(CheckpointError, match=r"^wrong here$"):
        agree(broken, problem=None, place="step 3")


def test_what_is_not_the_same_everywhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "gather_from_processes", lambda own, _: ["abc", own])
    require_same("latents", "folder", "abc", Accelerator(cpu=True))
    with pytest.raises(CheckpointError, match=r"in latents folder \(process 0: abc; process 1: def\)"):
        require_same("latents", "folder", "def", Accelerator(cpu=True))
