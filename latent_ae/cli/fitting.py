"""`latent-ae fit-prior`: a mixture of Gaussians over a data set of latents."""

import argparse
from pathlib import Path

from latent_ae.cli.datasets import FOLDER_HELP
from latent_ae.cli.options import Commands, add_command, add_json, not_negative, positive
from latent_ae.cli.output import say, write_json


def add_commands(commands: Commands) -> None:
    """Add it."""
    fit = add_command(
        commands,
        "fit-prior",
        _fit,
        summary="fit a mixture of Gaussians to a data set of latents, a prior that takes seconds",
        more="latent-ae sample and serve take the result as --prior. Every tenth latent is held out, and the fit is "
        "measured on those.",
        example="latents/digits --components 10 -o runs/mixture",
    )
    fit.add_argument("folder", metavar="DIR", type=Path, help=FOLDER_HELP)
    fit.add_argument(
        "--components",
        type=positive,
        default=10,
        metavar="K",
        help="Gaussians of full covariance; 1 is a single one (default: 10)",
    )
    fit.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help="the folder to create")
    fit.add_argument("--model", metavar="MODEL", help="the model of the latents (default: the one the data set names)")
    fit.add_argument("--seed", type=not_negative, default=0, metavar="N", help="seed of the fit (default: 0)")
    add_json(fit, "the measured fit")


def _fit(arguments: argparse.Namespace) -> int:
    from latent_ae.io.atomic import refuse_taken

    refuse_taken([arguments.out])

    from latent_ae.priors.mixture import fit_mixture, write_mixture
    from latent_ae.priors.source import open_latents

    source = open_latents(arguments.folder, arguments.model, seed=arguments.seed)
    fit = fit_mixture(source, components=arguments.components, seed=arguments.seed)
    write_mixture(fit, source, arguments.out, seed=arguments.seed)
    write_json(arguments.json, {"components": arguments.components, **fit.measured()})
    say(f"{fit}\nwrote {arguments.out}; latent-ae sample takes it as --prior")
    return 0
