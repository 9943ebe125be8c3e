"""The documents against the program: the generated page, the example, every command line."""

import argparse
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from latent_ae.cli import main, programs
from latent_ae.config import validate
from latent_ae.config.listing import FILE
from latent_ae.config.model import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.priors.settings import parse_prior_run
from latent_ae.training.settings import parse_run
from latent_ae.training.sweep import parse_sweep
from tests.program.running import ROOT, here, load_program

DOCS = ROOT / "docs"


def test_the_api_page_is_made_from_the_docstrings() -> None:
    page = load_program(DOCS / "make_api.py").page()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == page, "run python docs/make_api.py"


def documented_commands() -> list[list[str]]:
    """The words of every `latent-ae COMMAND ...` and `python train/train.py ...` in a code block of a document."""
    lines: list[str] = []
    for document in (ROOT / "README.md", ROOT / "benchmarks/README.md", *DOCS.glob("*.md")):
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        lines += "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
        lines += re.findall(r"\| `(latent-ae .*?|python train/train.py .*?)` \|", text)
    words = [shlex.split(line.replace("$train", "train/train.py"), comments=True) for line in lines]
    return [each for each in words if each[:1] == ["latent-ae"] or each[:2] == ["python", "train/train.py"]]


def test_the_options_of_documented_commands_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command line is read, and none is run."""
    read = argparse.ArgumentParser.parse_known_args

    def read_alone(parser: argparse.ArgumentParser, *given: Any) -> tuple[argparse.Namespace, list[str]]:
        arguments, unknown = read(parser, *given)
        arguments.run = lambda _: 0
        return arguments, unknown

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", read_alone)
    monkeypatch.setattr("latent_ae.cli.check_arguments", lambda _: None)  # there are none of these files
    commands = documented_commands()
    assert len(commands) > 40
    for program, *words in commands:
        if program == "python":
            with suppress(SystemExit):  # of --help
                parse_run(words[1:], ROOT / "train/configs")
        elif words[0] == "train":
            parse_run(words[1:], ROOT / "train/configs")
        elif words[0] == "sweep":
            assert parse_sweep(words[1:], ROOT / "train/configs").runs
        elif words[0] == "train-prior":
            parse_prior_run(words[1:])
        elif words[0] not in programs.PROGRAMS:
            assert main(words) == 0, words


def test_the_list_of_settings_is_that_of_their_classes() -> None:
    contents = load_program(DOCS / "make_settings.py").contents()
    assert FILE.read_text(encoding="utf-8") == contents, "run python docs/make_settings.py"


@pytest.mark.slow  # encodes a data set
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
            encode_dataset = here(load_program(ROOT / "train/encode_dataset.py"))
            assert encode_dataset(code.removeprefix("latent-ae encode-dataset ").split()) == 0
            capsys.readouterr()
            continue
        exec(code, names)
        printed = capsys.readouterr().out.splitlines()
        promised = re.findall(r"^print\(.*?(?:  # (.*))?$", code, re.MULTILINE)
        assert len(printed) == len(promised)
        assert [line for line, said in zip(printed, promised, strict=True) if said and line != said] == []
