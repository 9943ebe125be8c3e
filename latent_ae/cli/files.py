"""`latent-ae encode`, `decode` and `reconstruct`: thousands of files, one after another."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_ae.cli.messages import complain, say
from latent_ae.cli.options import add_command, add_model, add_out_folder, load_codec, not_negative
from latent_ae.errors import UserError
from latent_ae.latent_header import SUFFIX, SUFFIXES

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands
    from latent_ae.codec.files import Target, Task

RESUMED = ("encode", "decode", "reconstruct")
GOES_ON = (
    "A folder stands for all that is in it. What an earlier run made is kept if it is whole and was made of the same "
    "bytes by the same model with the same options; anything else is made anew. Exit status 0 for complete success, 1 "
    "if some files could not be used: they are named at the end."
)


def add_commands(commands: "Commands") -> None:
    """Add the three."""
    encode = add_command(
        commands,
        "encode",
        _encode,
        summary="images of any size and mode to latent files",
        more=GOES_ON,
        example="photos/ -o latents --model runs/kl-photos/model --precision float16",
    )
    encode.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="an image file, or a folder of them")
    add_out_folder(encode, "latent files")
    add_model(encode)
    encode.add_argument(
        "--sample",
        type=not_negative,
        metavar="SEED",
        help="draw from the posterior, each file with a seed of its own that follows from this one and the file's "
        "bytes, instead of its mode",
    )
    encode.add_argument(
        "--precision", choices=("float32", "float16", "bfloat16"), help="of the stored numbers (default: float32)"
    )
    encode.add_argument("--logvar", action="store_true", help="store the posterior's log-variance too")
    encode.add_argument(
        "--suffix",
        choices=sorted(SUFFIXES),
        default=SUFFIX,
        help="of the latent files' names; ComfyUI's LoadLatent lists .latent only (default: %(default)s)",
    )
    decode = add_command(
        commands,
        "decode",
        _decode,
        summary="latent files to PNGs, each of exactly its image's size",
        more=GOES_ON,
        example="latents/ -o out --model runs/kl-photos/model",
    )
    decode.add_argument("latents", metavar="LATENT", nargs="+", type=Path, help="a latent file, or a folder of them")
    add_out_folder(decode, "PNGs")
    add_model(decode, required=False, more="; left out, the one that the files name, if it is on this machine")
    decode.add_argument(
        "--foreign",
        action="store_true",
        help="also decode files that name another encoder, or none as ComfyUI's .latent files, if the number of "
        "channels fits: with --model you say that they are its latents; they are taken as raw, not scaled",
    )
    reconstruct = add_command(
        commands,
        "reconstruct",
        _reconstruct,
        summary="images of any size and mode to PNGs of what a model makes of them",
        more=GOES_ON,
        example="photo.jpg scan.tif -o out --model runs/kl-photos/model",
    )
    reconstruct.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="an image file, or a folder of them")
    add_out_folder(reconstruct, "PNGs")
    add_model(reconstruct)


def _encode(arguments: argparse.Namespace) -> int:
    from latent_ae.codec.files import plan  # noqa: PLC0415
    from latent_ae.codec.tasks import Encode  # noqa: PLC0415
    from latent_ae.image import SUFFIXES as IMAGES  # noqa: PLC0415
    from latent_ae.paths import find_files  # noqa: PLC0415

    targets = plan(find_files(arguments.images, IMAGES, without=arguments.out), arguments.out, arguments.suffix)
    codec = load_codec(arguments.model, arguments.compute)
    if codec.is_vq and arguments.suffix != SUFFIX:
        raise UserError(
            f"--suffix {arguments.suffix}: it is for ComfyUI, which reads no codes, and {arguments.model} makes codes: "
            "leave it out"
        )
    task = Encode(
        codec,
        compute=arguments.compute,
        seed=arguments.sample,
        precision=arguments.precision,
        logvar=arguments.logvar,
    )
    return _run(task, targets, arguments.out, "encoded")


def _decode(arguments: argparse.Namespace) -> int:
    from latent_ae.codec.files import plan  # noqa: PLC0415
    from latent_ae.codec.tasks import Decode, image_count, named_model  # noqa: PLC0415
    from latent_ae.paths import find_files  # noqa: PLC0415

    if arguments.foreign and arguments.model is None:
        raise UserError("--foreign needs --model: such files do not say which model decodes them")
    sources = find_files(arguments.latents, SUFFIXES, without=arguments.out)
    targets = plan(sources, arguments.out, ".png", count=image_count)
    name = arguments.model or named_model([source.path for source in sources])
    codec = load_codec(name, arguments.compute)
    task = Decode(codec, compute=arguments.compute, foreign=arguments.foreign)
    return _run(task, targets, arguments.out, "decoded")


def _reconstruct(arguments: argparse.Namespace) -> int:
    from latent_ae.codec.files import plan  # noqa: PLC0415
    from latent_ae.codec.tasks import Reconstruct  # noqa: PLC0415
    from latent_ae.image import SUFFIXES as IMAGES  # noqa: PLC0415
    from latent_ae.paths import find_files  # noqa: PLC0415

    targets = plan(find_files(arguments.images, IMAGES, without=arguments.out), arguments.out, ".png")
    codec = load_codec(arguments.model, arguments.compute)
    return _run(Reconstruct(codec, compute=arguments.compute), targets, arguments.out, "reconstructed")


def _run(task: "Task[Any, Any]", targets: "list[Target]", out: Path, done: str) -> int:
    from tqdm import tqdm  # noqa: PLC0415

    from latent_ae.codec.files import run  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(targets), unit="file", disable=None) as bar:  # not where nobody watches
        outcome = run(task, targets, on_file=bar.update)
    kept = f", {outcome.kept} were there already" if outcome.kept else ""
    failed = f", {len(outcome.failed)} could not be used" if outcome.failed else ""
    say(f"{done} {outcome.made} of {len(targets)} files into {out}{kept}{failed}")
    for note, count in outcome.notes.items():
        say(f"note: {count} {'file' if count == 1 else 'files'} {note}")
    for file, reason in outcome.failed:
        complain(f"{file}: {reason}")
    return 1 if outcome.failed else 0
