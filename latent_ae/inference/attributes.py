"""Attributes: directions in the latent space along which images change in one property.

two sets of images -> latents -> difference of means, measured on held-out images -> added to the latents of an image

The difference of means is White's "smile vector" (Sampling Generative Networks, 2016).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.inference.attribute_sides import Side
from latent_ae.inference.codec import Codec
from latent_ae.inference.encoded_images import OnBad, encoded_images
from latent_ae.inference.latent_pictures import decoded
from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.attribute import Attribute, Separation
from latent_ae.io.latent_file.latents import Latents
from latent_ae.models.autoencoder import class_name
from latent_ae.models.naming import model_name


def find_attribute(
    codec: Codec, from_: Side, to: Side, *, any_size: bool = False, on_bad: OnBad = lambda _: None
) -> Attribute:
    """The attribute that leads from the images of one side to those of the other.

    Args:
        codec: of an autoencoder without codebook; its latents are the posterior's modes.
        from_: images without the property.
        to: images with it.
        any_size: average latents over their positions: [c,1,1]. So it is done too if images differ in size.
        on_bad: is told of images that cannot be used.

    Raises UserError for a model with a codebook, and for a side of which no image can be used.
    """
    if codec.is_vq:
        raise UserError(f"{codec.name} has a codebook, and attributes are of continuous latents: take a KL model")
    loads = [images for side in (from_, to) for images in (side.fitted, side.heldout)]
    sets = [[latents for latents in encoded_images(codec, each, on_bad) if latents is not None] for each in loads]
    for side, what, latents in zip((from_, from_, to, to), ("", "held-out ") * 2, sets, strict=True):
        if not latents:
            raise UserError(f"{side.name} has no {what}images that can be used")
    if any_size or len({latents.shape for each in sets for latents in each}) > 1:
        sets = [[latents.mean((1, 2), keepdim=True) for latents in each] for each in sets]
    start, held_start, end, held_end = map(torch.stack, sets)
    tensor = mean_difference(start, end)
    return Attribute(
        tensor=tensor,
        encoder=codec.identity,
        factor=codec.factor,
        from_name=from_.name,
        to_name=to.name,
        from_count=len(start),
        to_count=len(end),
        separation=separation(tensor, held_start, held_end),
        model=model_name(codec.name),
        encoder_class=class_name(codec.model),
    )


def mean_difference(start: Tensor, end: Tensor) -> Tensor:
    """Latents [N,c,h,w] and [M,c,h,w] => mean of `end` minus mean of `start`, [c,h,w] float32."""
    return (end.double().mean(0) - start.double().mean(0)).float()


def separation(tensor: Tensor, start: Tensor, end: Tensor) -> Separation:
    """How well the projection on an attribute [c,h,w] separates latents [N,c,h,w] from latents [M,c,h,w].

    Mann and Whitney's U over N M is the area under the ROC curve.
    """
    from scipy.stats import mannwhitneyu  # noqa: PLC0415 - a second, which no other command needs

    low, high = ((latents.double() * tensor.double()).flatten(1).sum(1).numpy() for latents in (start, end))
    statistic, p_value = mannwhitneyu(high, low, alternative="greater")
    return Separation(float(statistic) / (len(low) * len(high)), float(p_value), len(low), len(high))


def edited(codec: Codec, latents: Latents, attribute: Attribute, strengths: Sequence[float]) -> list[Pixels]:
    """An image (N = 1) with the attribute added so many times, one for each strength; 0 is its reconstruction.

    Raises WrongEncoder for an attribute of another encoder, UserError for an image of another size than it is for.
    """
    attribute.require_encoder(codec.identity)
    if attribute.grid not in ((1, 1), latents.grid):
        h, w = (steps * codec.factor for steps in attribute.grid)
        raise UserError(
            f"the attribute is for images of {w}x{h} pixels, the image has {latents.width}x{latents.height}: scale the "
            "image, or make the attribute for any size (latent-ae attribute --any-size)"
        )
    vectors = codec.vectors(latents) + torch.tensor(strengths).view(-1, 1, 1, 1) * attribute.tensor
    return [image[: latents.height, : latents.width] for image in decoded(codec, vectors)]
