"""`latent-ae verify` and `convert-dataset`: data sets of latents."""

import argparse
from dataclasses import asdict
from pathlib import Path

from latent_ae.cli.options import Commands, add_command, add_json, not_negative
from latent_ae.cli.output import complain, progress, say, write_json
from latent_ae.latent_dataset.conversion import TARGETS

FOLDER_HELP = "a data set of latents, written by train/encode_dataset.py"


def add_commands(commands: Commands) -> None:
    """Add both."""
    verify = add_command(
        commands,
        "verify",
        _verify,
        summary="check a data set of latents against its own records",
        more="Checks every shard's sha256, its values and statistics, and the index against the shards, and re-encodes "
        "some images if the model and the images can be opened. What could not be checked is listed. The exit status "
        "is 1 if a check fails.",
        example="latents --model runs/kl-photos/model --count 16",
    )
    verify.add_argument("folder", metavar="DIR", type=Path, help=FOLDER_HELP)
    verify.add_argument(
        "--model",
        metavar="MODEL",
        help="a model directory, a single file or a hub id (default: the model that the data set names)",
    )
    verify.add_argument(
        "--count", type=not_negative, default=8, metavar="N", help="number of images to re-encode (default: 8)"
    )
    add_json(verify, "the checks and their results")
    convert = add_command(
        commands,
        "convert-dataset",
        _convert,
        summary="write a data set of latents in the format of another trainer",
        more="Latents are scaled, named and typed as that trainer's own script writes them: docs/latents.md. A trainer "
        "that reads one latent per image gets one sample of its posterior, the same in every epoch; webdataset and mds "
        "keep mean and log-variance.",
        example="latents --to lightningdit -o latents-lightningdit",
    )
    convert.add_argument("folder", metavar="DIR", type=Path, help=FOLDER_HELP)
    convert.add_argument(
        "--to",
        required=True,
        choices=TARGETS,
        metavar="TARGET",
        help="; ".join(f"{name} ({target.summary})" for name, target in TARGETS.items()),
    )
    convert.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help="the folder to create")
    convert.add_argument(
        "--posterior",
        choices=("sample", "mode"),
        help="take a sample of each posterior, or its mode (default: sample if the log-variance is stored)",
    )
    convert.add_argument("--seed", type=not_negative, metavar="N", help="seed of the samples (default: 0)")


def _verify(arguments: argparse.Namespace) -> int:
    from latent_ae.inference import best_device
    from latent_ae.latent_dataset import verify

    with progress("shard") as advance:
        found = verify(
            arguments.folder, model=arguments.model, count=arguments.count, device=best_device(), on_shard=advance
        )
    write_json(arguments.json, {"folder": str(arguments.folder), "whole": not found.problems, **asdict(found)})
    say(f"{arguments.folder}: {found}")
    for note in found.notes:
        say(note)
    for problem in found.problems:
        complain(problem)
    if found.cure is not None:
        say(f"to encode only the damaged shards again, run: {found.cure}")
    return 1 if found.problems else 0


def _convert(arguments: argparse.Namespace) -> int:
    from latent_ae.latent_dataset.conversion import convert

    with progress("row") as advance:
        rows, notes = convert(
            arguments.folder,
            arguments.to,
            arguments.out,
            posterior=arguments.posterior,
            seed=arguments.seed,
            on_row=advance,
        )
    say(f"wrote {rows} rows of {arguments.folder} into {arguments.out}, for {arguments.to}")
    for note in notes:
        say(note)
    return 0
