"""`latent-ae verify`."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.messages import complain, say
from latent_ae.cli.options import add_command, add_json, not_negative

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands


def add_commands(commands: "Commands") -> None:
    """Add `verify`."""
    parser = add_command(
        commands,
        "verify",
        _verify,
        summary="whether a folder of latents is what it says",
        more="Every shard's sha256, its values and statistics, the index against the shards, and some images "
        "encoded again if model and images can be opened; what cannot be looked at is said. Exit status 1 if something "
        "is wrong.",
        example="latents --model runs/kl-photos/model --samples 16",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="what train/encode_dataset.py made")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a model directory, a single file or a hub id (default: the one it was made by)",
    )
    parser.add_argument(
        "--samples", type=not_negative, default=8, metavar="K", help="images to encode again (default: 8)"
    )
    add_json(parser, "what was checked and found")


def _verify(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm  # noqa: PLC0415

    from latent_ae.inference import best_device  # noqa: PLC0415  # torch takes seconds
    from latent_ae.latent_dataset import verify  # noqa: PLC0415

    with tqdm(unit="shard", disable=None) as bar:  # not where nobody watches

        def advance(total: int) -> None:
            bar.total = total
            bar.update()

        found = verify(
            arguments.folder,
            model=arguments.model,
            samples=arguments.samples,
            device=best_device(),
            on_shard=advance,
        )
    if arguments.json is not None:
        result = {"folder": str(arguments.folder), "whole": not found.problems, **asdict(found)}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(f"{arguments.folder}: {found}")
    for note in found.notes:
        say(note)
    for problem in found.problems:
        complain(problem)
    if found.cure is not None:
        say(f"to make only what is damaged anew, run: {found.cure}")
    return 1 if found.problems else 0
