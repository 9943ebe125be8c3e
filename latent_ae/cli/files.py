"""`latent-ae encode`, `decode` and `reconstruct`: any number of files, one after another."""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_ae.cli.options import (
    DTYPES,
    Commands,
    add_command,
    add_model,
    add_out_folder,
    load_codec,
    not_negative,
    say_how,
)
from latent_ae.cli.output import FileBars, complain, say
from latent_ae.errors import UserError
from latent_ae.io.latent_file.header import SUFFIX, SUFFIXES
from latent_ae.io.paths import Found, count_by_suffix, find_files

if TYPE_CHECKING:
    from latent_ae.inference import Codec
    from latent_ae.inference.file_jobs import Target, Task
    from latent_ae.inference.image_reading import ReadingRule

WRITTEN = (".png", ".tif", ".tiff", ".npy")
"""`latent_ae.io.rasters.writing.SUFFIXES`, which imports torch"""
RESUMED = ("encode", "decode", "reconstruct")
_SHOWN_FILES = 5
MORE = (
    "A folder stands for all files below it. Files that an earlier run wrote are kept if they are complete and were "
    "made from the same bytes by the same model with the same options; all others are written again. The exit status "
    "is 0 if all files were processed, and 1 if some could not be used: they are listed at the end."
)
KINDS = (
    "Images are written with all channels and bits: as PNG if it holds them (8 bits; 16 bits of grey and RGB), else as "
    "TIFF."
)


def add_commands(commands: Commands) -> None:
    """Add the three."""
    encode = add_command(
        commands,
        "encode",
        _encode,
        summary="encode images of any size into latent files",
        more=MORE,
        example="photos/ -o latents --model runs/kl-photos/model --dtype float16",
    )
    _add_images(encode)
    add_out_folder(encode, "latent files")
    add_model(encode)
    encode.add_argument("--sample", action="store_true", help="store a sample of the posterior instead of its mode")
    encode.add_argument(
        "--seed",
        type=not_negative,
        metavar="N",
        help="seed of --sample (default: 0); the seed of each file follows from this one and the file's bytes",
    )
    encode.add_argument("--dtype", choices=DTYPES, help="type of the stored numbers (default: float32)")
    encode.add_argument("--logvar", action="store_true", help="also store the posterior's log-variance")
    encode.add_argument(
        "--suffix",
        choices=sorted(SUFFIXES),
        default=SUFFIX,
        help="suffix of the latent files; ComfyUI's LoadLatent only lists .latent (default: %(default)s)",
    )
    decode = add_command(
        commands,
        "decode",
        _decode,
        summary="decode latent files into images of exactly the original sizes",
        more=f"{KINDS} {MORE}",
        example="latents/ -o out --model runs/kl-photos/model",
    )
    decode.add_argument("latents", metavar="LATENT", nargs="+", type=Path, help="a latent file, or a folder of them")
    add_out_folder(decode, "images")
    _add_suffix(decode)
    add_model(
        decode,
        default=None,
        otherwise="the model that the files name, if it is in this folder, in runs/, or comes with this program",
    )
    decode.add_argument(
        "--foreign",
        action="store_true",
        help="also decode latents of another encoder or of an unknown one, such as ComfyUI's .latent files, if the "
        "number of channels fits. They are taken as latents of --model, raw and not scaled",
    )
    reconstruct = add_command(
        commands,
        "reconstruct",
        _reconstruct,
        summary="encode and decode images of any size",
        more=f"{KINDS} {MORE}",
        example="photo.jpg scan.tif -o out --model runs/kl-photos/model",
    )
    _add_images(reconstruct)
    add_out_folder(reconstruct, "images")
    _add_suffix(reconstruct)
    add_model(reconstruct)


def refuse_seed_of_sample(argv: Sequence[str]) -> None:
    """Raise UserError for `encode --sample SEED` of earlier versions, whose seed would pass for an image file."""
    for option, seed in pairwise(argv):
        if argv[0] == "encode" and option == "--sample" and seed.isdigit() and not Path(seed).exists():
            raise UserError(f"--sample takes no seed, got {seed}: use --sample --seed {seed}")


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add image files and the options for reading them."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="an image file, or a folder of them")
    parser.add_argument(
        "--color",
        choices=("convert", "keep"),
        default="convert",
        help="convert: convert colours to sRGB by the file's ICC profile (relative colorimetric). keep: take RGB "
        "values as they are, and store their profile in a reconstruction (default: convert)",
    )
    parser.add_argument(
        "--accept-damaged",
        action="store_true",
        help="also read damaged files whose pixels are complete: a PNG with damaged or too large metadata, a PNG or "
        "JPEG without its end marker",
    )

    parser.add_argument(
        "--all-pages",
        action="store_true",
        help="models of numbers: use every page, frame or slice of a file, and not the first alone; outputs are "
        "numbered",
    )
    parser.add_argument(
        "--axis",
        type=not_negative,
        metavar="N",
        help="models of numbers: axis, from 0, along which the slices of a volume are counted (default: the format's; "
        "2 for NIfTI)",
    )


def _add_suffix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suffix",
        choices=WRITTEN,
        help="suffix of the images, which says their format; .npy files are written again by every run (default: "
        ".png, or .tif for what PNG cannot hold)",
    )


def _encode(arguments: argparse.Namespace) -> int:
    from latent_ae.inference.file_tasks import Encode

    if arguments.seed is not None and not arguments.sample:
        raise UserError(f"--seed {arguments.seed} has no effect without --sample: leave it out")
    codec = load_codec(arguments)
    targets, others, rule = _images(arguments, codec, arguments.suffix)
    if codec.is_vq and arguments.suffix != SUFFIX:
        raise UserError(
            f"--suffix {arguments.suffix}: it is for ComfyUI, which reads no codes, and {arguments.model} encodes into "
            "codes: leave it out"
        )
    seed = (arguments.seed or 0) if arguments.sample else None
    task = Encode(codec, seed=seed, dtype=arguments.dtype, logvar=arguments.logvar, rule=rule)
    say_how(codec, codec.precision.encoder)
    return _run(task, targets, others, arguments.out, "encoded")


def _decode(arguments: argparse.Namespace) -> int:
    from latent_ae.inference.file_jobs import plan
    from latent_ae.inference.file_tasks import Decode
    from latent_ae.inference.latent_sources import image_count, named_model
    from latent_ae.io.image_writing import suffixes_for

    if arguments.foreign and arguments.model is None:
        raise UserError("--foreign needs --model: such files do not say which model decodes them")
    found = find_files(arguments.latents, SUFFIXES, without=arguments.out)
    name = arguments.model or named_model([source.path for source in found.sources])
    codec = load_codec(arguments, name=name)
    suffix = arguments.suffix or suffixes_for(codec.pixel_format)[0]
    targets = plan(found.sources, arguments.out, suffix, count=image_count)
    task = Decode(codec, suffix=suffix, foreign=arguments.foreign)
    say_how(codec, codec.precision.decoder)
    return _run(task, targets, found.others, arguments.out, "decoded")


def _reconstruct(arguments: argparse.Namespace) -> int:
    from latent_ae.inference.file_tasks import Reconstruct
    from latent_ae.io.image_writing import suffixes_for

    codec = load_codec(arguments)
    suffix = arguments.suffix or suffixes_for(codec.pixel_format)[0]
    targets, others, rule = _images(arguments, codec, suffix)
    task = Reconstruct(codec, suffix=suffix, rule=rule)
    say_how(codec, codec.precision.encoder, codec.precision.decoder)
    return _run(task, targets, others, arguments.out, "reconstructed")


def _images(
    arguments: argparse.Namespace, codec: "Codec", suffix: str
) -> "tuple[list[Target], list[Path], ReadingRule]":
    """What becomes of the image files, the files beside them that are not read, and how images are read."""
    from latent_ae.inference.file_jobs import each_page, plan
    from latent_ae.inference.image_reading import ReadingRule, page_count

    if arguments.all_pages and not codec.pixel_format.numbers:
        raise UserError(f"--all-pages: {codec.name} is a model of pictures, the first of each file: leave it out")
    found = find_images(arguments.images, codec, without=arguments.out)
    rule = ReadingRule(arguments.color, arguments.accept_damaged, arguments.axis)
    if not arguments.all_pages:
        return plan(found.sources, arguments.out, suffix), found.others, rule
    targets = plan(found.sources, arguments.out, suffix, count=lambda path: page_count(path, rule))
    return each_page(targets), found.others, rule


def find_images(paths: Sequence[Path], codec: "Codec", *, without: Path | None = None) -> Found:
    """`find_files` that a model reads. Raises UserError."""
    from latent_ae.io.image import SUFFIXES as IMAGES
    from latent_ae.io.rasters import RASTER_SUFFIXES

    return find_files(paths, RASTER_SUFFIXES if codec.pixel_format.numbers else IMAGES, without=without)


def _run(task: "Task[Any, Any]", targets: "list[Target]", others: list[Path], out: Path, done: str) -> int:
    """Process the targets and report; `others` are files beside them that are not read."""
    from latent_ae.inference.file_jobs import run

    out.mkdir(parents=True, exist_ok=True)
    with FileBars(len(targets)) as bars:
        outcome = run(task, targets, bars)
    kept = f", {outcome.kept} were there already" if outcome.kept else ""
    failed = f", {len(outcome.failed)} could not be used" if outcome.failed else ""
    outputs = {output for target in targets for output in target.outputs}
    others = [path for path in others if path not in outputs]  # what was made before may lie among them
    unread = f", {len(others)} are of kinds that are not read: {count_by_suffix(others)}" if others else ""
    pages = " files and pages" if len({target.source for target in targets}) < len(targets) else " files"
    say(f"{done} {outcome.made} of {len(targets) + len(others)}{pages} into {out}{kept}{failed}{unread}")
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
