"""`latent-ae interpolate` and `sample`: images of the latent space."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.options import Commands, add_command, add_model, load_codec, not_negative, positive, say_how
from latent_ae.cli.output import remark, say
from latent_ae.errors import UserError
from latent_ae.io.model_place import drawing_pipeline

if TYPE_CHECKING:
    from latent_ae.inference import Codec

ANIMATIONS = (".png", ".webp", ".gif")


def add_commands(commands: Commands) -> None:
    """Add both."""
    interpolate = add_command(
        commands,
        "interpolate",
        _interpolate,
        summary="interpolate between two images in the latent space",
        more="B is scaled and cropped to the size of A. Writes a strip of images as a PNG. With --animate, writes an "
        "animation in the format of FILE's suffix: "
        ".png (APNG) and .webp are lossless, .gif has 256 colours per image.",
        example="cat.jpg dog.jpg -o interpolation.png --steps 7 --model runs/kl-photos/model",
    )
    for name in ("A", "B"):
        interpolate.add_argument(name.lower(), metavar=name, type=Path, help="an image or a latent file")
    interpolate.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the file to write")
    interpolate.add_argument(
        "--steps", type=positive, default=9, metavar="N", help="number of images, including A and B (default: 9)"
    )
    interpolate.add_argument(
        "--spherical", action="store_true", help="interpolate along the great circle instead of the straight line"
    )
    interpolate.add_argument("--animate", action="store_true", help="write an animation instead of a strip")
    add_model(interpolate)
    sample = add_command(
        commands,
        "sample",
        _sample,
        summary="decode random latents into a grid of images",
        more="Latents are drawn from N(0, I) or, with --prior, from a trained prior. An autoencoder alone is not a "
        "generator: its images show how well its latents fill the space. A pipeline, such as train-prior's diffusion "
        "makes, draws with its own diffusion model.",
        example="-o draws.png --count 16 --seed 1 --model runs/kl-digits/model",
    )
    sample.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the PNG to write")
    sample.add_argument("--count", type=positive, default=16, metavar="N", help="number of images (default: 16)")
    sample.add_argument("--seed", type=not_negative, default=0, metavar="N", help="seed of the latents (default: 0)")
    sample.add_argument(
        "--temperature", type=_temperature, metavar="T", help="standard deviation of the latents (default: 1)"
    )
    sample.add_argument(
        "--size", type=positive, metavar="PX", help="side of the images (default: that of the training images)"
    )
    sample.add_argument(
        "--prior",
        metavar="DIR",
        help="a prior over the model's latents, trained by train/train_prior.py (default: N(0, I))",
    )
    learned = sample.add_argument_group("with the prior of a VQModel's codes")
    learned.add_argument("--label", type=not_negative, metavar="N", help="class of the images (default: each in turn)")
    learned.add_argument(
        "--complete", type=Path, metavar="IMAGE", help="keep the upper half of an image and draw the lower"
    )
    learned.add_argument("--top-k", type=positive, metavar="K", help="draw from the K most probable codes")
    learned.add_argument(
        "--top-p", type=_share, metavar="P", help="draw from the most probable codes of together probability P"
    )
    add_model(sample, otherwise="")  # a model is drawn from that was trained for it
    sample.set_defaults(draws="with a pipeline too")


def _interpolate(arguments: argparse.Namespace) -> int:
    check_out(arguments.out, ANIMATIONS if arguments.animate else ANIMATIONS[:1])
    if arguments.steps < 2:
        raise UserError(f"--steps must be at least 2 (both end images count), got {arguments.steps}")

    from latent_ae.inference.latent_pictures import ends_of, interpolation, write_animation, write_grid

    codec = load_codec(arguments)
    say_how(codec, codec.precision.encoder, codec.precision.decoder)
    *ends, said = ends_of(codec, arguments.a, arguments.b)
    if said:
        remark(said)
    images = interpolation(codec, *ends, steps=arguments.steps, spherical=arguments.spherical)
    if arguments.animate:
        write_animation(arguments.out, images)
    else:
        write_grid(arguments.out, images, columns=len(images))
    _say_written(len(images), arguments.out, codec)
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    check_out(arguments.out, ANIMATIONS[:1])
    if (pipeline := drawing_pipeline(arguments.model)) is not None:
        return _sample_of_pipeline(arguments, pipeline)
    if arguments.prior is not None and arguments.size is not None:
        raise UserError(
            f"--size {arguments.size} has no effect with --prior, whose size is fixed: leave one of them out"
        )

    for name in ("label", "complete", "top_k", "top_p"):
        if arguments.prior is None and getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} has no effect without --prior: leave it out, or give a prior")

    from latent_ae.inference.latent_pictures import completions, draws, draws_of_prior, write_grid
    from latent_ae.models.learned_prior import DrawOptions
    from latent_ae.models.prior_loading import load_prior

    prior = None if arguments.prior is None else load_prior(arguments.prior)
    codec = load_codec(arguments)
    say_how(codec, codec.precision.decoder)
    count, seed, temperature = arguments.count, arguments.seed, arguments.temperature
    if prior is None:
        images = draws(codec, count, seed=seed, temperature=temperature, size=arguments.size)
    else:
        options = DrawOptions(temperature, arguments.label, arguments.top_k, arguments.top_p)
        if arguments.complete is None:
            images = draws_of_prior(codec, prior, arguments.prior, count, seed=seed, options=options)
        else:
            images = completions(codec, prior, arguments.prior, arguments.complete, count, seed=seed, options=options)
    write_grid(arguments.out, images)
    _say_written(len(images), arguments.out, codec)
    return 0


def _sample_of_pipeline(arguments: argparse.Namespace, folder: Path) -> int:
    """Draw with a pipeline's own diffusion model, which fixes all but the number of images and the seed."""
    for name in ("prior", "size", "temperature", "label", "complete", "top_k", "top_p", "precision", "tile"):
        if getattr(arguments, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} has no effect on the pipeline {folder}, which draws with its own "
                f"diffusion model: leave it out, or give --model {folder / 'vae'}"
            )

    from latent_ae.inference.latent_pictures import write_grid
    from latent_ae.inference.pipeline_draws import draws_of_pipeline

    images, how = draws_of_pipeline(folder, arguments.count, seed=arguments.seed)
    write_grid(arguments.out, images)
    say(f"wrote {len(images)} images into {arguments.out}, {how}")
    return 0


def _say_written(count: int, out: Path, codec: "Codec") -> None:
    shown = codec.pixel_format.describe_preview()
    say(f"wrote {count} images into {out}{f' as previews: {shown}' if shown else ''}")


def check_out(out: Path, suffixes: tuple[str, ...], option: str = "--out") -> None:
    """Refuse a file to write whose name or folder does not fit. Raises UserError."""
    if out.suffix.lower() not in suffixes:
        more = "; with --animate, .webp and .gif too" if len(suffixes) == 1 and out.suffix in ANIMATIONS else ""
        raise UserError(f"{option} {out}: the name must end in {' or '.join(suffixes)}{more}")
    if not out.parent.is_dir():
        raise UserError(f"{option} {out}: the folder {out.parent} does not exist")


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 to 100")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number above 0 and at most 1")
    return value
