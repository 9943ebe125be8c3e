"""`latent-ae interpolate` and `sample`: pictures of the latent space."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.messages import say
from latent_ae.cli.options import add_command, add_model, load_codec, not_negative, positive, say_how
from latent_ae.errors import UserError

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands

ANIMATIONS = (".png", ".webp", ".gif")


def add_commands(commands: "Commands") -> None:
    """Add both."""
    interpolate = add_command(
        commands,
        "interpolate",
        _interpolate,
        summary="the way from one image to another through the latent space",
        more="A strip of pictures as a PNG, or with --animate an animation, as the suffix of FILE says: .png (APNG) "
        "and .webp are lossless, .gif has 256 colours a picture.",
        example="cat.jpg dog.jpg -o way.png --steps 7 --model runs/kl-photos/model",
    )
    for name in ("A", "B"):
        interpolate.add_argument(name.lower(), metavar=name, type=Path, help="an image or a latent file")
    interpolate.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the picture to write")
    interpolate.add_argument(
        "--steps", type=positive, default=9, metavar="N", help="pictures, those of A and B among them (default: 9)"
    )
    interpolate.add_argument("--spherical", action="store_true", help="along the great circle, not the straight line")
    interpolate.add_argument("--animate", action="store_true", help="an animation instead of a strip")
    add_model(interpolate)
    sample = add_command(
        commands,
        "sample",
        _sample,
        summary="a grid of images decoded from random latents",
        more="What a model makes of them shows how far its latents fill the space around them; an autoencoder is no "
        "generator of images. With --prior they come from what a prior has learnt of the latents.",
        example="-o draws.png --count 16 --seed 1 --model runs/kl-digits/model",
    )
    sample.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the PNG to write")
    sample.add_argument("--count", type=positive, default=16, metavar="N", help="images (default: 16)")
    sample.add_argument("--seed", type=not_negative, default=0, metavar="S", help="of the draws (default: 0)")
    sample.add_argument(
        "--temperature", type=_temperature, metavar="T", help="standard deviation of what is drawn (default: 1)"
    )
    sample.add_argument(
        "--size", type=positive, metavar="PX", help="side of an image (default: that of the training images)"
    )
    sample.add_argument(
        "--prior",
        metavar="DIR",
        help="a prior of the model's latents that train/train_hierarchy.py made (default: N(0, 1))",
    )
    add_model(sample)


def _interpolate(arguments: argparse.Namespace) -> int:
    _check_out(arguments.out, ANIMATIONS if arguments.animate else ANIMATIONS[:1])
    if arguments.steps < 2:
        raise UserError("--steps 1: a way has two ends; give 2 or more")

    from latent_ae.inference.latent_pictures import latents_of, way, write_animation, write_grid  # noqa: PLC0415

    codec = load_codec(arguments)
    say_how(codec, codec.precision.encoder, codec.precision.decoder)
    ends = [latents_of(codec, file) for file in (arguments.a, arguments.b)]
    pictures = way(codec, *ends, steps=arguments.steps, spherical=arguments.spherical)
    if arguments.animate:
        write_animation(arguments.out, pictures)
    else:
        write_grid(arguments.out, pictures, columns=len(pictures))
    say(f"wrote {len(pictures)} pictures into {arguments.out}")
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    _check_out(arguments.out, ANIMATIONS[:1])
    if arguments.prior is not None and arguments.size is not None:
        raise UserError(
            f"--size {arguments.size} has no effect with --prior, which draws its own: leave one of them out"
        )

    from latent_ae.inference.latent_pictures import draws, draws_of_prior, write_grid  # noqa: PLC0415
    from latent_ae.models.hierarchical_prior import load_prior  # noqa: PLC0415

    prior = None if arguments.prior is None else load_prior(arguments.prior)
    codec = load_codec(arguments)
    say_how(codec, codec.precision.decoder)
    count, how = arguments.count, {"seed": arguments.seed, "temperature": arguments.temperature}
    if prior is None:
        pictures = draws(codec, count, **how, size=arguments.size)
    else:
        pictures = draws_of_prior(codec, prior, arguments.prior, count, **how)
    write_grid(arguments.out, pictures)
    say(f"wrote {len(pictures)} pictures into {arguments.out}")
    return 0


def _check_out(out: Path, suffixes: tuple[str, ...]) -> None:
    if out.suffix.lower() not in suffixes:
        more = "; --animate writes .webp and .gif too" if len(suffixes) == 1 and out.suffix in ANIMATIONS else ""
        raise UserError(f"--out {out}: expected a name that ends in {' or '.join(suffixes)}{more}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of 0 to 100")
    return value
