"""`latent-ae attribute` and `edit`: a direction in the latent space along which images change in one property."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.evaluate import open_data
from latent_ae.cli.files import find_images
from latent_ae.cli.options import (
    MODEL_HELP,
    Commands,
    add_arithmetic,
    add_command,
    add_json,
    add_model,
    load_codec,
    positive,
    say_how,
)
from latent_ae.cli.output import remark, say, write_json
from latent_ae.cli.space import check_out
from latent_ae.config.command_line import split_options
from latent_ae.errors import UserError
from latent_ae.io.latent_file.header import SUFFIX

if TYPE_CHECKING:
    from latent_ae.inference import Codec
    from latent_ae.inference.attribute_sides import Side

_STRONGEST = 100


def add_commands(commands: Commands) -> None:
    """Add both."""
    attribute = add_command(
        commands,
        "attribute",
        _attribute,
        summary="find what to add to the latents of one set of images to make them like those of another",
        more="The attribute is the mean latents of the images of --to minus that of the images of --from. How well it "
        "separates is measured on images that were not used for it: of two folders on a fifth of each, of two classes "
        "on the held-out part of the data. Latents of images that differ in size are averaged over their positions. "
        "The model is a KL autoencoder. Classes are those of the data of the model's run, or of the data that a run's "
        "settings choose, such as --data.source digits or --data.path DIR with a folder for each class.",
        example="runs/kl-digits --from-label 3 --to-label 8 -o to-eight.safetensors",
    )
    attribute.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    for side, which in (("from", "without"), ("to", "with")):
        attribute.add_argument(
            f"--{side}", dest=f"{side}_", type=Path, metavar="DIR", help=f"a folder of images {which} the property"
        )
        attribute.add_argument(f"--{side}-label", metavar="NAME", help=f"a class of the data, in place of --{side}")
    attribute.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the file to write")
    attribute.add_argument(
        "--any-size",
        action="store_true",
        help="average latents over their positions, so that images of any size can be edited (default: only if the "
        "images differ in size)",
    )
    attribute.add_argument(
        "--count", type=positive, default=1000, metavar="N", help="most images of a side (default: 1000)"
    )
    add_arithmetic(attribute)
    attribute.set_defaults(rest=[])
    add_json(attribute, "what was made and how well it separates")
    edit = add_command(
        commands,
        "edit",
        _edit,
        summary="add an attribute to the latents of an image and decode them",
        more="The attribute is one that `latent-ae attribute` wrote. Several strengths make a strip.",
        example="three.png --add to-eight.safetensors --strength 0 0.5 1 1.5 -o edited.png",
    )
    edit.add_argument("file", metavar="IMAGE", type=Path, help="an image or a latent file")
    edit.add_argument("--add", required=True, type=Path, metavar="FILE", help="the attribute")
    edit.add_argument(
        "--strength",
        type=_strength,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="how many times the attribute is added: 1 is the whole difference of the means, 0 none, below 0 the "
        "opposite (default: 1)",
    )
    edit.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the PNG to write")
    add_model(
        edit,
        default=None,
        otherwise="the model that the attribute names, if it is in this folder, in runs/, or comes with this program",
    )


def _attribute(arguments: argparse.Namespace) -> int:
    check_out(arguments.out, (SUFFIX,))
    classes = _check_sides(arguments)

    from latent_ae.inference.attributes import find_attribute
    from latent_ae.io.latent_file.attribute import write_attribute

    codec = load_codec(arguments)
    if codec.is_vq:
        raise UserError(f"{codec.name} has a codebook, and attributes are of continuous latents: take a KL model")
    say_how(codec, codec.precision.encoder)
    from_, to = _classes(arguments, codec) if classes else _folders(arguments, codec)
    found = find_attribute(
        codec, from_, to, any_size=arguments.any_size, on_bad=lambda reason: remark(f"left out: {reason}")
    )
    write_attribute(arguments.out, found)
    write_json(
        arguments.json,
        {
            "from": {"name": found.from_name, "images": found.from_count},
            "to": {"name": found.to_name, "images": found.to_count},
            "encoder": found.encoder,
            "shape": list(found.tensor.shape),
            "norm": float(found.tensor.norm()),
            "separates": found.separation.separates,
            **asdict(found.separation),
        },
    )
    h, w = found.grid
    size = "images of any size" if found.grid == (1, 1) else f"images of {w * found.factor}x{h * found.factor} pixels"
    say(
        f"wrote {arguments.out}: from {found.from_name} ({found.from_count} images) to {found.to_name} "
        f"({found.to_count}), for {size}"
    )
    say(str(found.separation))
    return 0


def _edit(arguments: argparse.Namespace) -> int:
    check_out(arguments.out, (".png",))

    from latent_ae.inference.attributes import edited
    from latent_ae.inference.latent_pictures import latents_of, write_grid
    from latent_ae.io.latent_file.attribute import read_attribute
    from latent_ae.models.naming import find_model

    attribute = read_attribute(arguments.add)
    name = arguments.model or find_model(attribute.encoder, attribute.model)
    if name is None:
        raise UserError(
            f"the attribute is of the model {attribute.model!r}, and no model in this folder, in runs/ or of this "
            f"program has its encoder {attribute.encoder[:16]}: give --model"
        )
    codec = load_codec(arguments, name=name)
    attribute.require_encoder(codec.identity)
    say_how(codec, codec.precision.encoder, codec.precision.decoder)
    if not attribute.separation.separates:
        remark(f"{arguments.add} {attribute.separation}")
    images = edited(codec, latents_of(codec, arguments.file), attribute, arguments.strength)
    write_grid(arguments.out, images, columns=len(images))
    strengths = ", ".join(f"{strength:g}" for strength in arguments.strength)
    say(f"wrote {arguments.out}: from {attribute.from_name} to {attribute.to_name}, strength {strengths}")
    return 0


def _check_sides(arguments: argparse.Namespace) -> bool:
    """Whether classes are given, and not folders. Raises UserError."""
    folders = [arguments.from_, arguments.to_]
    classes = [arguments.from_label, arguments.to_label]
    if any(folders) == any(classes) or not (all(folders) or all(classes)):
        raise UserError("give both sides alike: --from DIR --to DIR, or --from-label NAME --to-label NAME")
    if classes[0] is not None and classes[0] == classes[1]:
        raise UserError(f"--from-label and --to-label are both {classes[0]}: give two classes")
    names = split_options(arguments.rest)
    if names and all(folders):
        raise UserError(f"--{next(iter(names))} has no effect on attribute of two folders: leave it out")
    return all(classes)


def _folders(arguments: argparse.Namespace, codec: "Codec") -> "list[Side]":
    from latent_ae.inference.attribute_sides import sides_of_files

    found = [(path.name or str(path), find_images([path], codec)) for path in (arguments.from_, arguments.to_)]
    sides = [(name, [source.path for source in files.sources]) for name, files in found]
    return sides_of_files(codec.pixel_format, sides, most=arguments.count)


def _classes(arguments: argparse.Namespace, codec: "Codec") -> "list[Side]":
    from latent_ae.inference.attribute_sides import sides_of_classes

    names = [arguments.from_label, arguments.to_label]
    return sides_of_classes(codec.pixel_format, open_data(arguments, codec), names, most=arguments.count)


def _strength(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _STRONGEST:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from -{_STRONGEST} to {_STRONGEST}")
    return value
