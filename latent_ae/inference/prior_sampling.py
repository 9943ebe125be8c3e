"""Latents that nobody encoded: draws from the prior that a model's own latents were pulled to."""

import torch
from torch import Tensor

from latent_ae.inference.codec import Codec
from latent_ae.models.latent_space import prior_draw
from latent_ae.models.learned_prior import DrawOptions, LearnedPrior
from latent_ae.randomness import torch_generator


def draw(codec: Codec, count: int, *, seed: int, temperature: float, height: int, width: int) -> Tensor:
    """Latents or codes' vectors [count,c,h,w] of images of so many pixels, for `Codec.decode_tensor`.

    AutoencoderKL: from N(0, temperature^2), the prior that its KL term pulls to; raw latents of models whose scaling
    factor is not 1 lie elsewhere. VQModel: codes drawn evenly and apart, whatever the temperature.
    """
    h, w = -(-height // codec.factor), -(-width // codec.factor)
    if codec.codebook is None:
        return temperature * prior_draw((codec.latent_channels, h, w), count, seed=seed)
    codes = [
        torch.randint(codec.codebook.size, (h, w), generator=torch_generator(seed, "prior", i)) for i in range(count)
    ]
    return codec.codebook.vectors(torch.stack(codes))


def learned_draw(codec: Codec, prior: LearnedPrior, count: int, *, seed: int, options: DrawOptions) -> Tensor:
    """Latents or codes' vectors [count,c,h,w] that a prior of the codec's own latents draws, for `Codec.decode_tensor`.

    Raises UserError for options that have no effect on the prior or that it cannot meet.
    """
    drawn = prior.drawn(count, seed=seed, options=options)
    return drawn if codec.codebook is None else codec.codebook.vectors(drawn)
