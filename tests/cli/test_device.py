"""Where commands run: a build of torch for GPUs is no GPU."""

from pathlib import Path

import pytest
import torch

from latent_ae import latent_dataset
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def _compiled_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)


def test_commands_run_on_the_cpu_where_there_is_no_gpu(models: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    out = ("-o", tmp_path / "out")
    assert run("reconstruct", photos / "a.png", *out, "--model", models / "kl")[0] == 0


def test_verify_does_too(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[object] = []

    def verify(folder: Path, *, device: object, **_: object) -> latent_dataset.Verification:
        devices.append(device)
        return latent_dataset.Verification()

    monkeypatch.setattr(latent_dataset, "verify", verify)
    assert run("verify", tmp_path)[0] == 0
    assert devices == [torch.device("cpu")]
