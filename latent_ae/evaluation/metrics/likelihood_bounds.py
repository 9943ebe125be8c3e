"""The likelihood that a KL autoencoder gives to an 8-bit image: what its reconstruction and its latents cost together.

The autoencoder is read as a generative model of images x, with its own encoder as the approximate posterior:

    p(z) = N(0, I)    raw latents
    q(z|x) = N(mean(x), diag exp(logvar(x)))    the encoder
    p(x|z) = prod_i Phi((x_i + h - mu_i(z)) / s) - Phi((x_i - h - mu_i(z)) / s)    around the decoder's output mu

Phi is the normal distribution function, h = 1/255 half the distance of two of the 256 levels on [-1, 1]; the first and
the last level take the whole tail. p(x|z) is thus the probability of an 8-bit image and not a density, and bits per
dimension can be compared with those of papers. Two lower bounds of log p(x):

    ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z))    Kingma and Welling 2014
    L_K  = E_q[log 1/K sum_k w_k],  w_k = p(x|z_k) p(z_k) / q(z_k|x)    Burda, Grosse and Salakhutdinov 2016 (IWAE)

L_1 is the ELBO, L_K rises with K, and L_K = log p(x) for every K where q is the true posterior.

Under another prior than N(0, I), p(z_k) may be an unbiased estimate: that of a prior with latents u of its own is
p(z, u) / q(u|z) for a u from q(u|z). The draw is then one of (z, u) together, and L_K a bound as before. The KL has no
formula; E_q[log q(z|x) - log p(z, u) / q(u|z)], which is no less than it, stands in its place.

C H W: an image's channels and sides; c h w: its latents; K: draws from the posterior.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from latent_ae.models.posterior import kl_nats, sample_posterior

PIXELS_PER_CALL = 2**18
"""pixels (H * W times draws) that the decoder is given at once, but one draw at least: this bounds memory"""
_VALUES_AT_ONCE = 2**22
"""of the decoder's output that have their probabilities computed together"""
_HALF_LEVEL = 1 / 255


class ImageTerms(NamedTuple):
    """What the estimates of one image are made of, in nats."""

    reconstruction: float
    """mean of log p(x|z) over the draws"""
    kl: float
    """KL(q(z|x) || p(z)) by its formula; under another prior than N(0, I) the mean of log q - log p over the
    draws, in expectation no less than it"""
    bounds: dict[int, float]
    """L_K by K"""
    effective_share: float
    """(sum w)^2 / (K sum w^2) of all draws: 1 where all weigh the same, 1/K where one outweighs the others"""
    dimensions: int
    """C * H * W"""


def image_terms(
    levels: Tensor,
    mean: Tensor,
    logvar: Tensor,
    *,
    decode: Callable[[Tensor], Tensor],
    noise: Callable[[int], Tensor],
    std: float,
    samples: int,
    log_prior: Callable[[Tensor, range], Tensor] | None = None,
) -> ImageTerms:
    """The terms of one image [C, H, W] of levels 0..255, from `samples` draws of its posterior.

    `mean` and `logvar` [c, h, w] are float64; `decode` takes latents [k, c, h, w] to pixels [k, C, H or more, W or
    more] on [-1, 1]; `noise(k)` is draw k's, [c, h, w] from N(0, 1). `log_prior` takes latents [k, c, h, w] and the
    numbers of their draws to log p(z) in nats, [k] float64, or to the log of an unbiased estimate; None is N(0, I).
    """
    height, width = levels.shape[1:]
    at_once = max(1, PIXELS_PER_CALL // (height * width))
    likelihoods, weights = [], []
    for first in range(0, samples, at_once):
        numbers = range(first, min(first + at_once, samples))
        z = sample_posterior(mean, logvar, torch.stack([noise(draw) for draw in numbers]).double())
        decoded = decode(z)[..., :height, :width].cpu()
        rows = max(1, _VALUES_AT_ONCE // decoded[:, :, 0].numel())
        pieces = zip(levels.split(rows, dim=1), decoded.split(rows, dim=2), strict=True)
        likelihoods.append(torch.stack([log_probability(*each, std).sum((1, 2, 3)) for each in pieces]).sum(0))
        prior = None if log_prior is None else log_prior(z, numbers)
        weights.append(log_weights(likelihoods[-1], z, mean, logvar, prior))
    log_likelihood, log_w = torch.cat(likelihoods), torch.cat(weights)
    kl = kl_nats(mean, logvar).sum() if log_prior is None else (log_likelihood - log_w).mean()
    return ImageTerms(
        reconstruction=float(log_likelihood.mean()),
        kl=float(kl),
        bounds=importance_bounds(log_w),
        effective_share=float(torch.exp(2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0))) / samples,
        dimensions=levels.numel(),
    )


def log_probability(levels: Tensor, mean: Tensor, std: float) -> Tensor:
    """The log of the mass that N(`mean`, `std`^2) on [-1, 1] gives to each of `levels` (0..255), float64.

    Elementwise; finite for every finite mean and a `std` of 1e-6 to 1e3, however far the tail.
    """
    center = (levels.double() / 127.5 - 1 - mean.double()) / std
    half = _HALF_LEVEL / std
    first, last = levels == 0, levels == 255
    edge = first | last
    # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): taken on the left, where log Phi does not round to 0.
    middle = -center.abs()
    upper = torch.special.log_ndtr(half + torch.where(first, center, torch.where(last, -center, middle)))
    # (log Phi)'(t) >= -t, so this holds exactly, and where the difference of two huge numbers rounds to 0 it is not 0.
    gap = torch.maximum(upper - torch.special.log_ndtr(middle - half), -2 * half * middle)
    return torch.where(edge, upper, upper + torch.log(-torch.expm1(-gap)))


def log_weights(
    log_likelihood: Tensor, z: Tensor, mean: Tensor, logvar: Tensor, log_prior: Tensor | None = None
) -> Tensor:
    """The log-weights log p(x|z_k) + log p(z_k) - log q(z_k|x), [K], of draws `z` [K, ...] and a posterior [...].

    `log_prior` [K] is log p(z_k); None is N(0, I).
    """
    if log_prior is None:  # of both densities only what does not cancel
        log_prior_over_posterior = 0.5 * ((z - mean).square() * torch.exp(-logvar) + logvar - z.square())
        return log_likelihood + log_prior_over_posterior.flatten(1).sum(1)
    log_posterior = -0.5 * ((z - mean).square() * torch.exp(-logvar) + logvar + math.log(2 * math.pi))
    return log_likelihood + log_prior - log_posterior.flatten(1).sum(1)


def importance_bounds(log_w: Tensor) -> dict[int, float]:
    """L_K of one image by K = 1, 2, 4 ... and all, from log-weights [K].

    L_K is the mean over groups of K consecutive draws that share none. Where K divides the larger one, groups are parts
    of larger groups, and by Jensen's inequality the figures rise for every image and not only in expectation.
    """
    total = len(log_w)
    bounds = {}
    for size in [*(2**power for power in range((total - 1).bit_length())), total]:
        groups = log_w[: total // size * size].view(-1, size)
        bounds[size] = float((groups.logsumexp(1) - math.log(size)).mean())
    return bounds


def levels_of(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] of an 8-bit image => its levels 0..255, float64. Raises ValueError for pixels in between."""
    exact = (pixels.cpu().double() + 1) * 127.5
    levels = exact.round()
    if not bool(((exact - levels).abs() < 1e-3).all() and (levels >= 0).all() and (levels <= 255).all()):
        raise ValueError("pixels must be levels of 8-bit images, v / 127.5 - 1 with v in 0..255")
    return levels
