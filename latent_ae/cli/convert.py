"""`latent-ae convert-dataset`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.messages import say
from latent_ae.cli.options import add_command, not_negative

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands

TARGETS = {
    "lightningdit": "LightningDiT: shards of latents, latents of mirror images, and labels",
    "fast-dit": "fast-DiT: a .npy file for each image and label",
    "kohya-sd": "kohya-ss/sd-scripts, Stable Diffusion 1 and 2: .npz files beside images",
    "kohya-sdxl": "the same for SDXL",
    "kohya-sd3": "the same for Stable Diffusion 3",
    "kohya-flux": "the same for FLUX",
    "webdataset": "tar files",
    "mds": "MosaicML Streaming",
}
"""the keys of `latent_ae.latent_dataset.conversion.TARGETS`, which takes torch to import"""


def add_commands(commands: "Commands") -> None:
    """Add `convert-dataset`."""
    parser = add_command(
        commands,
        "convert-dataset",
        _convert,
        summary="write a data set of latents for another trainer",
        more="Scaled, named and typed as that trainer's own script writes them; docs/latents.md says what each reads. "
        "Trainers that read one latent for each image get one draw from its posterior, the same in every epoch; "
        "webdataset and mds keep mean and log-variance.",
        example="latents --to lightningdit -o latents-lightningdit",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="what train/encode_dataset.py made")
    parser.add_argument(
        "--to",
        required=True,
        choices=TARGETS,
        metavar="TARGET",
        help="; ".join(f"{name} ({what})" for name, what in TARGETS.items()),
    )
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument(
        "--draw",
        choices=("sample", "mode"),
        help="from each posterior, or its mode (default: sample where the log-variance was kept)",
    )
    parser.add_argument("--seed", type=not_negative, metavar="N", help="of the draws (default: 0)")


def _convert(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm  # noqa: PLC0415

    from latent_ae.latent_dataset.conversion import convert  # noqa: PLC0415  # torch takes seconds

    with tqdm(unit="row", disable=None) as bar:  # not where nobody watches

        def advance(total: int) -> None:
            bar.total = total
            bar.update()

        rows, notes = convert(
            arguments.folder, arguments.to, arguments.out, draw=arguments.draw, seed=arguments.seed, on_row=advance
        )
    say(f"{rows} rows of {arguments.folder} in {arguments.out}, for {arguments.to}")
    for note in notes:
        say(note)
    return 0
