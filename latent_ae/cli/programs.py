"""`latent-ae train`, `sweep`, `encode-dataset`, `train-prior` and `serve`: programs that read their own options.

All but `serve` are the scripts of `train/`, which an installed package carries inside itself.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from latent_ae.cli.before_torch import answer_early
from latent_ae.cli.options import Commands

SCRIPTS: Mapping[str, str] = {
    "train": "train an image autoencoder from a recipe",
    "sweep": "train a recipe with several values of its settings",
    "encode-dataset": "encode a data set into sharded latents",
    "train-prior": "train a prior on latents: hierarchy or diffusion",
}
SERVE = "serve"
PROGRAMS: Mapping[str, str] = {**SCRIPTS, SERVE: "serve models to browsers and programs"}


def add_commands(commands: Commands) -> None:
    """List the programs in the help; `main` starts them before argparse reads their options."""
    for name, summary in PROGRAMS.items():
        commands.add_parser(name, help=summary, add_help=False)


def run_program(name: str, argv: list[str]) -> int:
    """Run one of PROGRAMS on its own command line. Returns its exit status."""
    if name == SERVE:
        from latent_ae.cli.serve import main as serve

        return serve(argv)
    if (status := answer_early(name, argv, script(name).parent)) is not None:
        return status
    spec = importlib.util.spec_from_file_location(f"latent_ae.{name}", script(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result: int = module.main(argv)
    return result


def script(name: str) -> Path:
    """The file of one of SCRIPTS: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "train", package.parent / "train"
    return (installed if installed.is_dir() else checkout) / f"{name.replace('-', '_')}.py"
