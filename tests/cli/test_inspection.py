"""`latent-ae inspect`: what is in latent files, and what is none."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from latent_ae.io.latent_file.latents import Compute, Latents, describe, write_latents
from tests.cli.conftest import Run

MEAN = Latents("mean", torch.zeros(1, 4, 2, 3), "ab" * 32, height=15, width=24, factor=8, model="sd")
CODES = Latents("vq_indices", torch.zeros(2, 2, 3).long(), "cd" * 32, height=16, width=24, factor=8, codebook_size=9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_latents(tmp_path / "mean.safetensors", dataclasses.replace(MEAN, scaling_factor=0.18215), dtype="float16")
    write_latents(tmp_path / "codes.safetensors", dataclasses.replace(CODES, compute=Compute("bf16", 64, 6)))
    return tmp_path


def test_one_file_is_told_of_in_full(folder: Path, run: Run) -> None:
    status, said, errors = run("inspect", folder / "mean.safetensors")
    assert (status, errors) == (0, [])
    told = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert told.keys() == {"file", *describe(folder / "mean.safetensors")}
    assert told["kind"] == "mean"
    assert told["grid"] == "[2, 3]"
    assert told["padding"] == "[1, 0]"
    assert told["dtype"] == "F16"
    assert told["scaling_factor"] == "0.18215"
    assert told["codebook_size"] == "-"
    assert told["encoder"] == "ab" * 32
    assert told["compute"] == "unknown"  # as in files of older versions
    assert float(told["bits_per_pixel"]) == pytest.approx(4 * 6 * 16 / (15 * 24))


def test_several_files_are_a_table(folder: Path, run: Run) -> None:
    status, said, _ = run("inspect", folder)
    assert status == 0
    head, codes, mean = (re.split(r"  +", line) for line in said.splitlines())
    columns = ["file", "kind", "images", "size", "grid", "dtype", "bits/pixel", "computed in", "encoder", "model"]
    assert head == columns
    sizes, how = ["2", "16x24", "2x3", "U16", "0.25"], "bf16, 6 tiles of 64 pixels"
    assert codes == [str(folder / "codes.safetensors"), "vq_indices", *sizes, how, "cd" * 8]
    sizes = ["1", "15x24", "4x2x3", "F16", "1.07"]
    assert mean == [str(folder / "mean.safetensors"), "mean", *sizes, "unknown", "ab" * 8, "sd"]


def test_everything_as_json_with_what_is_no_latent_file(folder: Path, tmp_path: Path, run: Run) -> None:
    (folder / "cut.latent").write_bytes((folder / "mean.safetensors").read_bytes()[:-1])
    missing = folder / "missing"
    status, said, errors = run("inspect", folder, missing, "--json", tmp_path / "told.json")
    assert status == 1
    assert len(said.splitlines()) == 3
    assert errors == [
        f"{folder / 'cut.latent'}: a latent file cut short: 47 bytes of tensors, its header promises 48",
        f"{missing}: No such file or directory",
    ]
    told = json.loads((tmp_path / "told.json").read_text())
    names = [folder / "codes.safetensors", folder / "mean.safetensors", folder / "cut.latent", missing]
    assert [each["file"] for each in told] == [str(name) for name in names]
    assert told[1] == {"file": str(names[1]), **describe(names[1])}
    assert told[3] == {"file": str(missing), "error": "No such file or directory"}


def test_a_report_that_cannot_be_written_is_refused_first(folder: Path, run: Run) -> None:
    file = folder / "no" / "folder.json"
    assert run("inspect", folder, "--json", file) == (
        2,
        "",
        [f"--json {file}: the folder {file.parent} does not exist"],
    )
