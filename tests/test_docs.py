"""The page that a program makes, and the example, which is a program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from latent_ae.config import validate
from latent_ae.config.model import ModelConfig
from latent_ae.models import build_autoencoder
from tests.program.running import ROOT, environment

DOCS = ROOT / "docs"


def test_the_api_page_is_made_from_the_docstrings() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import make_api; print(make_api.page(), end='')"],
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (DOCS / "api.md").read_text(encoding="utf-8") == made.stdout, "run python docs/make_api.py"


@pytest.mark.slow  # encodes a data set in a process of its own
def test_the_example_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = validate(ModelConfig, {"preset": "digits"})
    model = build_autoencoder(config, seed=0, resolution=32)
    model.register_to_config(scaling_factor=0.9, shift_factor=0.1)
    model.save_pretrained(tmp_path / "runs/kl-digits/model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```(python|bash)\n(.*?)```", (DOCS / "example.md").read_text(encoding="utf-8"), re.DOTALL)
    assert [language for language, _ in blocks].count("bash") == 1
    for language, code in blocks:
        if language == "bash":
            words = code.removeprefix("latent-ae ").split()
            command = [sys.executable, "-m", "latent_ae.cli", *words]
            subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), check=True, capture_output=True)
            continue
        exec(code, names)
        printed = capsys.readouterr().out.splitlines()
        promised = re.findall(r"^print\(.*?(?:  # (.*))?$", code, re.MULTILINE)
        assert len(printed) == len(promised)
        assert [line for line, said in zip(printed, promised, strict=True) if said and line != said] == []
