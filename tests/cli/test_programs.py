"""`latent-ae train`, `encode-dataset` and `serve` start the programs with the options that follow."""

import pytest

from latent_ae.cli import main, programs
from tests.program.forked import ROOT


def test_the_scripts_of_a_checkout_lie_beside_the_package() -> None:
    for name in programs.SCRIPTS:
        assert programs.script(name).parent == ROOT / "train"
        assert programs.script(name).is_file()


def test_the_help_lists_every_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for name, summary in programs.PROGRAMS.items():
        assert f"    {name}" in shown
        assert summary in shown


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["train", "--config", "nothing"], "the recipes are beta-vae-digits"),
        (["encode-dataset"], "--model MODEL"),
        (["train-prior", "--prior.kind", "diffusion"], "--latents DIR, made by encode-dataset, is required"),
        (["serve", "--auth-file", "nothing", "--model", "x"], "No such file"),
    ],
)
def test_a_program_reads_its_own_options(argv: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert error in capsys.readouterr().err
