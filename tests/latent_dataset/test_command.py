"""`latent-ae verify`."""

import io
import json
from pathlib import Path

import pytest
import tqdm

from tests.cli.conftest import Run, run
from tests.latent_dataset.conftest import NAMES

__all__ = ["run"]


def test_what_was_found_goes_into_a_file(latents: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "found.json"
    assert run("verify", latents, "--count", 2, "--json", file)[0] == 0
    found = json.loads(file.read_text())
    assert (found["folder"], found["whole"], found["shards"], found["rows"]) == (str(latents), True, 3, len(NAMES))
    assert (found["encoded_again"], found["problems"], found["notes"]) == (2, [], [])
    (latents / "shards" / "00001.safetensors").write_bytes(b"damaged")
    status, _, errors = run("verify", latents, "--count", 0, "--json", file)
    found = json.loads(file.read_text())
    assert (status, found["whole"], found["problems"]) == (1, False, errors)


def test_a_file_that_cannot_be_written_is_said_before(latents: Path, run: Run) -> None:
    status, said, errors = run("verify", latents, "--json", latents / "none" / "found.json")
    assert (status, said) == (2, "")
    assert errors == [f"--json {latents}/none/found.json: the folder {latents}/none does not exist"]


def test_a_bar_counts_the_shards(latents: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, bar = io.StringIO(), tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **given: bar(**{**given, "disable": False, "file": screen}))
    assert run("verify", latents, "--count", 0)[0] == 0
    assert "3/3" in screen.getvalue()
