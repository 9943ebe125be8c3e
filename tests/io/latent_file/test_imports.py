"""Latent files are read in a process that has neither diffusers nor the models."""

import subprocess
import sys
from pathlib import Path

import pytest

from latent_ae.io.latent_file.latents import write_latents
from tests.io.latent_file.test_latents import kl


@pytest.mark.slow  # a new process
def test_reading_needs_neither_diffusers_nor_the_models(tmp_path: Path) -> None:
    write_latents(tmp_path / "a", kl())
    code = (
        "import sys\nfrom pathlib import Path\nfrom latent_ae.io.latent_file.header import describe\n"
        f"describe(Path({str(tmp_path / 'a')!r}))\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)\n"
        "from latent_ae.io.latent_file.latents import read_latents\n"
        f"read_latents(Path({str(tmp_path / 'a')!r}))\n"
        "print([name for name in sys.modules if name.startswith(('diffusers', 'latent_ae.models'))])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "False False\n[]\n", run.stderr
