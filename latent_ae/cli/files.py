"""`latent-ae encode`, `decode` and `reconstruct`: thousands of files, one after another."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_ae.cli.messages import complain, say
from latent_ae.cli.options import add_command, add_model, add_out_folder, load_codec, not_negative, say_how
from latent_ae.errors import UserError
from latent_ae.io.latent_file.header import SUFFIX, SUFFIXES

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands
    from latent_ae.inference.file_jobs import Target, Task

RESUMED = ("encode", "decode", "reconstruct")
_SHOWN_FILES = 5
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
    _add_images(encode)
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
    add_model(decode, required=False, more="; left out, the one of their encoder in this folder or in runs/")
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
    _add_images(reconstruct)
    add_out_folder(reconstruct, "PNGs")
    add_model(reconstruct)


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Image files and how they are read."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="an image file, or a folder of them")
    parser.add_argument(
        "--color",
        choices=("convert", "keep"),
        default="convert",
        help="convert colours to sRGB by the file's profile (ICC, relative colorimetric), or keep RGB values as they "
        "are, with their profile in a reconstruction (default: convert)",
    )
    parser.add_argument(
        "--accept-damaged",
        action="store_true",
        help="also read files whose damage leaves the pixels whole: a PNG with damaged or too large metadata, a PNG "
        "or JPEG without its end",
    )


def _encode(arguments: argparse.Namespace) -> int:
    from latent_ae.inference.file_jobs import plan  # noqa: PLC0415
    from latent_ae.inference.file_tasks import Encode  # noqa: PLC0415
    from latent_ae.inference.image_reading import ReadingRule  # noqa: PLC0415
    from latent_ae.io.image import SUFFIXES as IMAGES  # noqa: PLC0415
    from latent_ae.io.paths import find_files  # noqa: PLC0415

    found = find_files(arguments.images, IMAGES, without=arguments.out)
    targets = plan(found.sources, arguments.out, arguments.suffix)
    codec = load_codec(arguments)
    if codec.is_vq and arguments.suffix != SUFFIX:
        raise UserError(
            f"--suffix {arguments.suffix}: it is for ComfyUI, which reads no codes, and {arguments.model} makes codes: "
            "leave it out"
        )
    task = Encode(
        codec,
        seed=arguments.sample,
        precision=arguments.precision,
        logvar=arguments.logvar,
        rule=ReadingRule(arguments.color, arguments.accept_damaged),
    )
    say_how(codec, codec.precision.encoder)
    return _run(task, targets, found.others, arguments.out, "encoded")


def _decode(arguments: argparse.Namespace) -> int:
    from latent_ae.inference.file_jobs import plan  # noqa: PLC0415
    from latent_ae.inference.file_tasks import Decode, image_count, named_model  # noqa: PLC0415
    from latent_ae.io.paths import find_files  # noqa: PLC0415

    if arguments.foreign and arguments.model is None:
        raise UserError("--foreign needs --model: such files do not say which model decodes them")
    found = find_files(arguments.latents, SUFFIXES, without=arguments.out)
    targets = plan(found.sources, arguments.out, ".png", count=image_count)
    name = arguments.model or named_model([source.path for source in found.sources])
    codec = load_codec(arguments, name=name)
    task = Decode(codec, foreign=arguments.foreign)
    say_how(codec, codec.precision.decoder)
    return _run(task, targets, found.others, arguments.out, "decoded")


def _reconstruct(arguments: argparse.Namespace) -> int:
    from latent_ae.inference.file_jobs import plan  # noqa: PLC0415
    from latent_ae.inference.file_tasks import Reconstruct  # noqa: PLC0415
    from latent_ae.inference.image_reading import ReadingRule  # noqa: PLC0415
    from latent_ae.io.image import SUFFIXES as IMAGES  # noqa: PLC0415
    from latent_ae.io.paths import find_files  # noqa: PLC0415

    found = find_files(arguments.images, IMAGES, without=arguments.out)
    targets = plan(found.sources, arguments.out, ".png")
    codec = load_codec(arguments)
    task = Reconstruct(codec, rule=ReadingRule(arguments.color, arguments.accept_damaged))
    say_how(codec, codec.precision.encoder, codec.precision.decoder)
    return _run(task, targets, found.others, arguments.out, "reconstructed")


def _run(task: "Task[Any, Any]", targets: "list[Target]", others: list[Path], out: Path, done: str) -> int:
    """Do the task; `others` are files beside the targets that are not read."""
    from tqdm import tqdm  # noqa: PLC0415

    from latent_ae.inference.file_jobs import run  # noqa: PLC0415
    from latent_ae.io.paths import count_by_suffix  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(targets), unit="file", disable=None) as bar:  # not where nobody watches
        outcome = run(task, targets, on_file=bar.update)
    kept = f", {outcome.kept} were there already" if outcome.kept else ""
    failed = f", {len(outcome.failed)} could not be used" if outcome.failed else ""
    outputs = {output for target in targets for output in target.outputs}
    others = [path for path in others if path not in outputs]  # what was made before may lie among them
    unread = f", {len(others)} are of kinds that are not read: {count_by_suffix(others)}" if others else ""
    say(f"{done} {outcome.made} of {len(targets) + len(others)} files into {out}{kept}{failed}{unread}")
    if outcome.tiled:
        seam = min((each.seam_db for each in outcome.tiled if each.seam_db is not None), default=None)
        agree = "" if seam is None else f", which agree to {seam:.1f} dB or more where they overlap"
        say(f"{len(outcome.tiled)} of them in tiles, an approximation{agree}")
    for note, files in outcome.notes.items():
        shown = ", ".join(map(str, files[:_SHOWN_FILES])) + (", ..." if len(files) > _SHOWN_FILES else "")
        say(f"note: {len(files)} {'file' if len(files) == 1 else 'files'} {note} ({shown})")
    for file, reason in outcome.failed:
        complain(f"{file}: {reason}")
    return 1 if outcome.failed else 0
