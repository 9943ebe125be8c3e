"""Published weights: which file is taken. Downloads and damage are tested with their networks."""

from pathlib import Path

import pytest
import torch

from latent_ae.errors import UserError
from latent_ae.evaluation.weight_files import WeightFile

EMPTY = "e3b0c442"  # the sha256 of no bytes begins so
FILE = WeightFile(f"https://example.org/v1/net-{EMPTY}.pth", other_names=(f"same-{EMPTY}.pth",))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_the_given_file_comes_first_then_the_published_name_then_others(cache: Path, tmp_path: Path) -> None:
    assert FILE.find(None, "setting") is None
    for name in (*FILE.other_names, FILE.name):
        (cache / name).touch()
        assert FILE.find(None, "setting") == cache / name
    assert FILE.place == cache / FILE.name
    given = tmp_path / "given.pth"
    with pytest.raises(UserError, match=rf"setting {given} is not a file: give {FILE.address}"):
        FILE.find(given, "setting")
    given.write_bytes(b"anything")
    assert FILE.find(given, "setting") == given
    assert FILE.described(given, "someone") == f"given.pth sha256 ee0874170b7f6f32 (not someone's {FILE.name})"
    assert FILE.described(cache / FILE.name, "someone") == f"{FILE.name} sha256 e3b0c44298fc1c14"


def test_a_damaged_cache_is_not_passed_over_for_another_name(cache: Path) -> None:
    (cache / FILE.name).write_bytes(b"x")
    (cache / FILE.other_names[0]).touch()
    with pytest.raises(UserError, match=f"{FILE.name} is damaged: its sha256 does not begin with {EMPTY}"):
        FILE.find(None, "setting")
