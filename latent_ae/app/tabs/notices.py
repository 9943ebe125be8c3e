"""What a visitor should know of a reconstruction, in a few sentences."""

import math
from collections.abc import Sequence

from latent_ae.service.results import Reconstruction

_SEAM_DB = 40.0
"""agreement of tiles below which their edges may be seen"""
_TIMES = " \N{MULTIPLICATION SIGN} "


def notices(made: Sequence[Reconstruction]) -> str:
    """Where the picture is unlike what a model knows, was converted, or has seams; '' if there is nothing to say."""
    remarks = dict.fromkeys(remark for each in made for remark in each.encoded.remarks)
    found = [*dict.fromkeys(each.unlike for each in made), *(f"The image {remark}." for remark in remarks)]
    found += [
        f"{each.model} worked in {each.decoding.tiles} tiles, whose seams may be seen: where they overlap they agree "
        f"to {each.seam_db:.1f} dB."
        for each in made
        if each.seam_db is not None and each.seam_db < _SEAM_DB
    ]
    return " ".join(filter(None, found))


def in_numbers(made: Reconstruction) -> str:
    """How many numbers the latents have instead of the image's: 3 x 256 x 256 -> 16 x 32 x 32: 12 times fewer numbers.

    Codes are counted as one number each.
    """
    height, width, channels = made.original.shape
    latents = made.encoded.latents
    _, *form = latents.tensor.shape
    grid = _TIMES.join(map(str, form))
    if latents.codebook_size is not None:
        grid += f" codes out of {latents.codebook_size:,}"
    ratio = made.original.size / math.prod(form)
    compared = f"{max(ratio, 1 / ratio):.3g} times {'fewer' if ratio > 1 else 'more'}" if ratio != 1 else "as many"
    return f"{_TIMES.join(map(str, (channels, height, width)))} \N{RIGHTWARDS ARROW} {grid}: {compared} numbers"
