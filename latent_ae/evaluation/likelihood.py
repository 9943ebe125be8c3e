"""A KL autoencoder and images to bounds of the log-likelihood; the equations are in metrics/likelihood_bounds.py.

    pixels -> encode -> q(z|x) -> K draws -> decode -> p(x|z) of the 256 levels, p(z) -> weights -> ELBO and IWAE bounds

B C H W: images, channels, pixels; K: draws from an image's posterior.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.evaluation.coder import PIXELS_AT_ONCE, Coder
from latent_ae.evaluation.metrics.likelihood_bounds import ImageTerms, image_terms, levels_of, log_probability
from latent_ae.evaluation.report import LikelihoodReport, likelihood_report
from latent_ae.models import AnyAutoencoder, factor_of
from latent_ae.models.adapters import Adapter
from latent_ae.models.autoencoder import class_name, codebook_size
from latent_ae.models.encode_decode import inference
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.posterior import LOGVAR_RANGE, sample_posterior
from latent_ae.randomness import place_of, torch_generator

Batches = Iterable[tuple[Tensor, Sequence[str]]]
"""pixels [B, C, H, W] float32 in [-1, 1] of 8-bit images, and the ids of their images"""
STD_RANGE = (1e-6, 1e3)
"""of p(x|z) on [-1, 1]: far below a level's width and far above the range of all"""
FITTED_VALUES = 2**13
"""number of pixel values of an image, evenly spread, that the standard deviation is fitted to"""
_SEARCH_RANGE = (1e-4, 10.0)


class LikelihoodEstimator:
    """Estimates image by image, so that batches and their order do not change a number."""

    def __init__(
        self,
        model: AnyAutoencoder,
        *,
        std: float,
        std_rule: str,
        data: str,
        size_rule: str,
        samples: int = 64,
        seed: int = 0,
        prior: HierarchicalPrior | None = None,
        prior_name: str = "N(0, I)",
        pixels_at_once: int = PIXELS_AT_ONCE,
    ) -> None:
        """`std` is that of p(x|z) on [-1, 1]; `samples` is the largest K; `prior` is p(z), N(0, I) if None.

        `std_rule`, `data`, `size_rule` and `prior_name` say for the protocol where `std` comes from, which images are
        measured, and what p(z) is. Images of more than `pixels_at_once` go through in strips.

        Raises UserError for numbers out of range and for a VQModel.
        """
        check_numbers(samples, std)
        check_posterior(model)
        self._model, self._std, self._samples, self._seed = model, std, samples, seed
        self._coder = Coder(model, pixels_at_once)
        self._prior = prior
        self._rows: dict[str, ImageTerms] = {}
        kl = "the KL's formula" if prior is None else "the mean of log q(z|x) - log p(z) over them"
        learned = "" if prior is None else ", a learned prior in float32"
        self.protocol = {
            "data": data,
            "size_rule": size_rule,
            "prior": f"{prior_name} over raw latents",
            "posterior": f"the encoder's diagonal Gaussian; {samples} draws an image, seed {seed}",
            "observation": "Gaussian around the decoder's output, neither clamped nor rounded, integrated over each of "
            "the 256 levels; the first and the last take the whole tail",
            "std": f"{std:.6g} on [-1, 1], {std_rule}",
            "bounds": f"ELBO: mean log p(x|z) over the draws less {kl}; L_K: mean over groups of K draws "
            "that share none, a rest that fills no group left out",
            "bits_per_dimension": "-nats / (C * H * W * ln 2) of each image, then the mean; positive for the KL",
            "padding": f"bottom and right to multiples of {factor_of(model)} by repeating the edge; log p(x|z) counts "
            "the image's own pixels, KL and weights all of its latents",
            "precision": f"{str(model.dtype).removeprefix('torch.')}{learned}; probabilities in float64",
        }

    @property
    def per_image(self) -> dict[str, ImageTerms]:
        """Every image's terms, in the order of the ids."""
        return dict(sorted(self._rows.items()))

    def update(self, pixels: Tensor, sample_ids: Sequence[str]) -> None:
        """Measure [B, C, H, W] float32 pixels in [-1, 1] of 8-bit images.

        Raises ValueError for other pixels; UserError for an image seen before, one whose likelihood is not finite, and
        a model whose latents have no posterior.
        """
        channels = self._model.config["in_channels"]
        if pixels.ndim != 4 or pixels.shape[1] != channels:
            raise ValueError(f"pixels must be [B, {channels}, H, W], got {list(pixels.shape)}")
        for image, sample_id in zip(pixels, sample_ids, strict=True):
            if sample_id in self._rows:
                raise UserError(f"every image may be measured once, but {sample_id!a} is here already")
            terms = self._terms(image, sample_id)
            if not all(map(math.isfinite, (terms.reconstruction, terms.kl, *terms.bounds.values()))):
                raise UserError(f"{sample_id!a}: its likelihood is not finite: check the model's weights and precision")
            self._rows[sample_id] = terms

    def _terms(self, image: Tensor, sample_id: str) -> ImageTerms:
        levels = levels_of(image)
        with inference(self._model):
            mean, logvar = _posterior(self._coder, image)
            if self._prior is not None and mean.shape != self._prior.latent_shape:
                expected, got = ("x".join(map(str, shape)) for shape in (self._prior.latent_shape, mean.shape))
                raise UserError(
                    f"{sample_id!a} has latents of {got}, and the prior is one of {expected}: give --evaluation.size "
                    f"{self._prior.latent_shape[1] * factor_of(self._model)}"
                )
            return image_terms(
                levels,
                mean,
                logvar,
                decode=self._coder.decode,
                noise=lambda draw: _noise(self._seed, sample_id, draw, mean.shape),
                std=self._std,
                samples=self._samples,
                log_prior=None if self._prior is None else partial(self._log_prior, self._prior, sample_id),
            )

    def _log_prior(self, prior: HierarchicalPrior, sample_id: str, z: Tensor, draws: range) -> Tensor:
        shape = torch.Size([prior.noise_values])
        noise = [_noise(self._seed, sample_id, draw, shape, purpose="likelihood prior") for draw in draws]
        return prior.log_density(z, torch.stack(noise))

    def report(self) -> LikelihoodReport:
        """The report of all images so far. Raises UserError if there are none."""
        if not self._rows:
            raise UserError("nothing was measured: no image of the data set can be used")
        return likelihood_report(list(self._rows.values()), std=self._std, protocol=self.protocol)


def fit_std(
    model: AnyAutoencoder, batches: Batches, *, seed: int = 0, pixels_at_once: int = PIXELS_AT_ONCE
) -> tuple[float, int]:
    """The standard deviation that maximises the mean single-sample ELBO over all images of `batches`; their number.

    Each image has one draw, the first that LikelihoodEstimator would take; only log p(x|z) depends on the standard
    deviation. Of large images FITTED_VALUES values stand for all. Raises UserError without images or a posterior, and
    for a reconstruction that is not finite.
    """
    check_posterior(model)
    coder = Coder(model, pixels_at_once)
    levels, means, weights = [], [], []
    for pixels, sample_ids in batches:
        for image, sample_id in zip(pixels, sample_ids, strict=True):
            with inference(model):
                mean, logvar = _posterior(coder, image)
                z = sample_posterior(mean, logvar, _noise(seed, sample_id, 0, mean.shape))
                decoded = coder.decode(z[None])[0, :, : image.shape[1], : image.shape[2]]
            if not bool(decoded.isfinite().all()):
                raise UserError(f"{sample_id!a}: its reconstruction is not finite: check the model's weights")
            stride = -(-image.numel() // FITTED_VALUES) | 1  # odd, or else few columns would stand for all
            levels.append(levels_of(image).flatten()[::stride])
            means.append(decoded.cpu().flatten()[::stride])
            weights.append(torch.full(levels[-1].shape, image.numel() / len(levels[-1]), dtype=torch.float64))
    if not levels:
        raise UserError("no standard deviation can be fitted: no image of the training part can be used; give --std")
    level, mu, weight = torch.cat(levels), torch.cat(means), torch.cat(weights)
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - no other measure needs it

    # A Gaussian's log-likelihood is concave in the logarithm of its standard deviation, which is what is searched.
    found = minimize_scalar(
        lambda x: -float(log_probability(level, mu, math.exp(x)) @ weight),
        bounds=tuple(map(math.log, _SEARCH_RANGE)),
        options={"xatol": 1e-6},
    )
    return math.exp(found.x), len(levels)


def check_numbers(samples: int, std: float | None) -> None:
    """Raises UserError for a number of samples or a standard deviation (None: to be fitted) out of range."""
    if samples < 1:
        raise UserError(f"samples: got {samples}, expected a whole number of at least 1")
    if std is not None and not STD_RANGE[0] <= std <= STD_RANGE[1]:
        raise UserError(f"std: got {std:g}, expected {STD_RANGE[0]:g} to {STD_RANGE[1]:g}, in units of [-1, 1] pixels")


def check_posterior(model: AnyAutoencoder) -> None:
    """Raises UserError for a class without a posterior; a plain autoencoder is recognised with the first image."""
    if codebook_size(model) is not None:
        raise UserError(_no_posterior(f"those of a {class_name(model)} are codes"))
    if isinstance(model, Adapter) and not model.row.posterior:
        raise UserError(_no_posterior(f"an {class_name(model)} has none"))


def _posterior(coder: Coder, image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance [c, h, w] of one image [C, H, W], float64 on the CPU."""
    encoded = coder.encode(image[None])
    if encoded.logvar is None:
        raise UserError(_no_posterior("this AutoencoderKL is a plain autoencoder, its variances are all zero"))
    return encoded.latents[0].cpu().double(), encoded.logvar[0].cpu().double().clamp(*LOGVAR_RANGE)


def _no_posterior(why: str) -> str:
    return f"a likelihood needs latents with a posterior, but {why}: give an AutoencoderKL trained with a KL term"


def _noise(seed: int, sample_id: str, draw: int, shape: torch.Size, *, purpose: str = "likelihood") -> Tensor:
    """N(0, 1) for one draw: a generator each, so that a draw is the same however many are taken beside it."""
    return torch.randn(shape, generator=torch_generator(seed, purpose, place_of(sample_id), draw)).double()
