"""A mixture of Gaussians as the prior of raw latents, over all numbers of a latent or over their main directions.

    y = basis^T (z - mean)                                         the R directions of most variance
    p(z) = sum_k weight_k N(y; mean_k, L_k L_k^T) * N(rest of z; 0, residual_std^2)

With R = c*h*w there is no rest. A mixture of one is a Gaussian of full covariance; the split into directions and an
even rest is that of probabilistic PCA (Tipping and Bishop 1999).
"""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from latent_ae.models.errors import ModelError
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.randomness import torch_generator


class GaussianMixturePrior(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """p(z) of latents [channels, side, side]. It is N(0, I) until its buffers are filled.

    Args:
        channels: of z.
        side: of z's grid.
        components: K.
        directions: R, at most channels * side**2.
        encoder_identity: of the autoencoder whose latents z are.
    """

    classes: tuple[int, ...] = ()

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self, *, channels: int, side: int, components: int = 1, directions: int, encoder_identity: str = ""
    ) -> None:
        super().__init__()
        values = channels * side**2
        if min(channels, side, components, directions) < 1 or directions > values:
            raise ModelError(
                "a mixture needs channels, side and components of 1 or more and directions from 1 to "
                f"channels * side**2, got {channels}, {side}, {components}, {directions}"
            )
        self.latent_shape, self.side = (channels, side, side), side
        self.encoder_identity = encoder_identity
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.eye(values, directions))
        self.register_buffer("residual_std", torch.ones(()))
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, directions))
        self.register_buffer("factors", torch.eye(directions).repeat(components, 1, 1))

    @torch.no_grad()
    def log_prob(self, latents: Tensor) -> Tensor:
        """Raw latents [N,c,h,w] => log p(z) in nats, [N] float64 on the CPU: exact, without noise."""
        z = latents.flatten(1).cpu().double() - self.mean.cpu().double()
        basis, means, factors = (each.cpu().double() for each in (self.basis, self.means, self.factors))
        y = z @ basis
        rest, std = z.shape[1] - basis.shape[1], self.residual_std.cpu().double()
        away = (z.square().sum(1) - y.square().sum(1)) / std.square()
        log_rest = -0.5 * (away + rest * (math.log(2 * math.pi) + 2 * std.log())) if rest else 0.0
        of_components = torch.distributions.MultivariateNormal(means, scale_tril=factors).log_prob(y[:, None])
        logits = of_components + self.weights.cpu().double().log()
        found: Tensor = logits.logsumexp(1) + log_rest
        return found

    @torch.no_grad()
    def drawn(self, count: int, *, seed: int, options: DrawOptions) -> Tensor:
        """Raw latents [count,c,h,w] float32, as every learned prior draws them.

        The temperature is what the standard deviations within a component are multiplied by. Raises UserError for
        other options.
        """
        options.only("temperature", of="a mixture of Gaussians")
        temperature = 1.0 if options.temperature is None else options.temperature
        directions, values, ends = self.config["directions"], len(self.mean), self.weights.cpu().double().cumsum(0)
        draws = list[Tensor]()
        for place in range(count):
            generator = torch_generator(seed, "prior", place)
            even = torch.rand((), generator=generator, dtype=torch.float64)
            k = min(int(torch.searchsorted(ends, even, right=True)), len(ends) - 1)  # sums may end below 1
            y, other = (torch.randn(size, generator=generator).to(self.device) for size in (directions, values))
            rest = self.residual_std * (other - self.basis @ (self.basis.T @ other))
            inner = self.means[k] + temperature * (self.factors[k] @ y)
            draws.append(self.mean + self.basis @ inner + temperature * rest)
        found: Tensor = torch.stack(draws).unflatten(1, self.latent_shape)
        return found
