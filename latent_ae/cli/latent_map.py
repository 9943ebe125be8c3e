"""`latent-ae map`: a plane through a model's latents as a picture."""

import argparse
from pathlib import Path

from latent_ae.cli.evaluate import open_data
from latent_ae.cli.options import (
    MODEL_HELP,
    Commands,
    add_arithmetic,
    add_command,
    add_json,
    load_codec,
    positive,
    say_how,
)
from latent_ae.cli.output import remark, say, write_json
from latent_ae.cli.space import check_out

_TRAVERSED = 8
"""latent numbers"""
_TRAVERSAL_STEPS = 9


def add_commands(commands: Commands) -> None:
    """Add it."""
    parser = add_command(
        commands,
        "map",
        _map,
        summary="draw where images lie in the latent space, beside what it decodes to",
        more="On the left every held-out image is a point at its latents, coloured by class; on the right the same "
        "part of the plane is decoded. Latents of two numbers are the plane, larger ones are projected on the two "
        "principal components of the training images. With classes, says how often the nearest training image is of "
        "the same class. The images are those of the model's run, or of the data that a run's settings choose, such as "
        "--data.source digits or --data.path DIR with a folder for each class.",
        example="runs/map-digits -o map.png --traversals traversals.png",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the PNG to write")
    parser.add_argument(
        "--count", type=positive, default=2000, metavar="N", help="most images of each part of the data (default: 2000)"
    )
    parser.add_argument(
        "--steps", type=positive, default=20, metavar="N", help="decoded images along a side (default: 20)"
    )
    parser.add_argument(
        "--size",
        type=positive,
        metavar="PX",
        help="side that images are scaled and cropped to (default: that of the training images)",
    )
    parser.add_argument(
        "--traversals",
        type=Path,
        metavar="FILE",
        help="also write a PNG with a row for each of the most active latent numbers, in which that number of the "
        "first held-out image goes through its range",
    )
    add_arithmetic(parser)
    parser.set_defaults(rest=[])
    add_json(parser, "the points and how well they separate the classes")


def _map(arguments: argparse.Namespace) -> int:
    check_out(arguments.out, (".png",))
    if arguments.traversals is not None:
        check_out(arguments.traversals, (".png",), "--traversals")

    from latent_ae.inference.latent_map import encode_part, frequency, map_picture, neighbour_accuracy, plane_of
    from latent_ae.inference.latent_pictures import image_size, write_grid
    from latent_ae.inference.traversals import most_active, traversals

    codec = load_codec(arguments)
    size = image_size(codec, arguments.size)
    parts = open_data(arguments, codec)
    say_how(codec, codec.precision.encoder, codec.precision.decoder)
    train, heldout = (
        encode_part(codec, part, size=size, most=arguments.count, on_bad=lambda reason: remark(f"left out: {reason}"))
        for part in (parts.train, parts.heldout)
    )
    plane = plane_of(train.latents)
    points = plane.points(heldout.latents)
    write_grid(arguments.out, [map_picture(codec, plane, heldout, steps=arguments.steps)])
    report: dict[str, object] = {
        "explained_variance": plane.explained,
        "training_images": len(train.latents),
        "points": points.tolist(),
        "labels": heldout.labels.tolist(),
        "label_names": list(heldout.label_names),
    }
    what = (
        "the two latent numbers"
        if train.latents[0].numel() == 2
        else f"two components with {plane.explained:.0%} of the latents' variance"
    )
    say(f"wrote {arguments.out}: {len(points)} held-out images on {what}")
    if (train.labels >= 0).any() and (heldout.labels >= 0).any():
        accuracy = neighbour_accuracy(plane.points(train.latents), train.labels, points, heldout.labels)
        report["neighbour_accuracy"] = accuracy
        report["most_frequent_class"] = most = frequency(heldout.labels)
        say(
            f"the nearest of {len(train.latents)} training images is of the same class for {accuracy:.1%} of them; "
            f"the most frequent class has {most:.1%}"
        )
    if arguments.traversals is not None:
        units = most_active(train.latents, _TRAVERSED)
        rows = traversals(codec, train.latents, heldout.latents[0], units, steps=_TRAVERSAL_STEPS)
        images = [image for row in rows for image in row]
        write_grid(arguments.traversals, images, columns=_TRAVERSAL_STEPS)
        shown = ", ".join(map(str, units))
        say(f"wrote {arguments.traversals}: the rows change latent (channel, row, column) {shown}")
    write_json(arguments.json, report)
    return 0
