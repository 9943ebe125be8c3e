"""Images of the latent space as files: interpolations between images, and decoded draws from a prior."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from latent_ae.errors import BrokenImage, UserError
from latent_ae.inference.codec import Codec
from latent_ae.inference.file_jobs import BATCH_PIXELS
from latent_ae.inference.image_reading import fitted, read_image
from latent_ae.inference.prior_sampling import draw, learned_draw
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image import Pixels, image_grid, to_pil
from latent_ae.io.latent_file.latents import SUFFIXES, Latents, read_latents
from latent_ae.io.pixel_format import Array
from latent_ae.models.latent_space import interpolate
from latent_ae.models.learned_prior import DrawOptions, LearnedPrior, check_prior
from latent_ae.models.token_prior import TokenPrior

FRAME_MILLISECONDS = 100
_UNSTATED_SIDE = 256
"""pixels a side of draws from a model that does not say what it was trained on"""


def ends_of(codec: Codec, a: Path, b: Path) -> tuple[Latents, Latents, str]:
    """The latents of two files (`latents_of`), and what was done to one of them, a sentence for the user or ''.

    The second image is scaled and cropped to the size of the first, or an image to that of a latent file.
    """
    first, second = (b, a) if _holds_latents(b) else (a, b)
    origin = latents_of(codec, first)
    if _holds_latents(second):
        return latents_of(codec, a), origin, ""
    image = _image_of(codec, second)
    height, width = origin.height, origin.width
    said = "" if image.shape[:2] == (height, width) else f"{second} is scaled and cropped to {height}x{width} pixels"
    other = codec.encode([fitted(image, height, width)])[0]
    return (origin, other, said) if first == a else (other, origin, said)


def latents_of(codec: Codec, file: Path) -> Latents:
    """The latents (N = 1) of an image file, or those in a latent file, which has one of SUFFIXES.

    Raises BrokenImage, LatentFileError, WrongEncoder for latents of another model, UserError for more than one image.
    """
    if not _holds_latents(file):
        return codec.encode([_image_of(codec, file)])[0]
    try:
        latents = read_latents(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from None
    latents.require_encoder(codec.identity)
    latents.require_pixels(codec.pixel_format)
    if latents.count != 1:
        raise UserError(f"{file} holds {latents.count} images, expected one")
    return latents


def _holds_latents(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _image_of(codec: Codec, file: Path) -> Array:
    try:
        with file.open("rb") as stream:
            return read_image(stream, codec.pixel_format).array
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from None
    except BrokenImage as error:
        raise BrokenImage(error.reason, str(file)) from error


def interpolation(codec: Codec, a: Latents, b: Latents, *, steps: int, spherical: bool) -> list[Pixels]:
    """`steps` images from that of `a` to that of `b`, both included, of the size that both have.

    Raises UserError if their latents differ in size.
    """
    if a.grid != b.grid:
        sizes = " and ".join(f"{latents.height}x{latents.width}" for latents in (a, b))
        raise UserError(f"images of {sizes} pixels have latents of different sizes: give two of one size")
    vectors = interpolate(codec.vectors(a)[0], codec.vectors(b)[0], steps, spherical=spherical)
    height, width = min(a.height, b.height), min(a.width, b.width)
    return [image[:height, :width] for image in decoded(codec, vectors)]


def draws(codec: Codec, count: int, *, seed: int, temperature: float | None, size: int | None) -> list[Pixels]:
    """`count` images of random latents.

    Args:
        codec: of the model.
        count: of images.
        seed: of the draws.
        temperature: standard deviation of what is drawn, 1 if None. A codebook's codes are drawn evenly and have none.
        size: of a side in pixels; height and width of the images that the model says it was trained on if None.

    Raises UserError for a size that the latents cannot have.
    """
    if codec.is_vq and temperature is not None:
        raise UserError(f"--temperature {temperature:g}: {codec.name} has codes, which are drawn evenly: leave it out")
    height, width = image_size(codec, size)
    temperature = 1.0 if temperature is None else temperature
    return decoded(codec, draw(codec, count, seed=seed, temperature=temperature, height=height, width=width))


def image_size(codec: Codec, size: int | None) -> tuple[int, int]:
    """(height, width) of images of `size` pixels a side; None: of those that the model says it was trained on.

    Raises UserError for a size that the latents cannot have.
    """
    if size is None:
        trained = codec.model.config.get("sample_size") or _UNSTATED_SIDE
        sides = (trained, trained) if isinstance(trained, int) else trained
        height, width = (max(1, math.ceil(side / codec.factor)) * codec.factor for side in sides)
        return height, width
    if size % codec.factor:
        nearest = max(1, round(size / codec.factor)) * codec.factor
        raise UserError(f"--size {size} is not a multiple of the model's factor {codec.factor}: take {nearest}")
    return size, size


def draws_of_prior(
    codec: Codec, prior: LearnedPrior, name: str, count: int, *, seed: int, options: DrawOptions
) -> list[Pixels]:
    """`count` images of a learned prior, called `name`, of the size that it was trained on.

    Raises ModelError if the prior is one of another encoder's latents, UserError for options that it cannot meet.
    """
    check_prior(prior, codec.identity, name)
    return decoded(codec, learned_draw(codec, prior, count, seed=seed, options=options))


def completions(
    codec: Codec, prior: LearnedPrior, name: str, file: Path, count: int, *, seed: int, options: DrawOptions
) -> list[Pixels]:
    """`count` images that share the codes of the upper half of an image file; a prior of codes, `name`, draws the rest.

    Raises as `draws_of_prior`, and UserError for a prior of no codes and for an image that is not of its size.
    """
    check_prior(prior, codec.identity, name)
    if not isinstance(prior, TokenPrior):
        raise UserError(f"--complete needs a prior of codes, and {name} is one of latents: train one on a VQModel")
    image, side = _image_of(codec, file), prior.side * codec.factor
    if image.shape[:2] != (side, side):
        height, width = image.shape[:2]
        raise UserError(f"{file} is {height}x{width} pixels: expected {side}x{side}, as the images of {name}")
    kept = codec.encode([image])[0].tensor[0, : prior.side // 2].flatten().long()
    codes = prior.draw([options.label] * count, seed=seed, options=options, kept=kept)
    assert codec.codebook is not None, "its encoder is one of codes"
    return decoded(codec, codec.codebook.vectors(codes))


def write_grid(path: Path, images: Sequence[Pixels], *, columns: int | None = None) -> None:
    """Write images side by side as one PNG, whole or not at all; about as many rows as columns unless told."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    grid = image_grid([images[first : first + columns] for first in range(0, len(images), columns)])
    stream = io.BytesIO()
    to_pil(grid).save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def write_animation(path: Path, images: Sequence[Pixels]) -> None:
    """Write images of one size one after another, for ever, as an APNG, WebP (both lossless) or GIF by the suffix."""
    first, *rest = [to_pil(image) for image in images]
    kind = path.suffix[1:].upper()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    stream = io.BytesIO()
    first.save(stream, kind, save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0, **lossless)
    write_atomically(path, stream.getvalue())


def decoded(codec: Codec, vectors: Tensor) -> list[Pixels]:
    """Vectors [N,c,h,w] to previews of their images, not all of them at once."""
    h, w = vectors.shape[-2:]
    step = max(1, BATCH_PIXELS // (h * w * codec.factor**2))
    return [image for part in vectors.split(step) for image in codec.pixel_format.previews(codec.decode_tensor(part))]
