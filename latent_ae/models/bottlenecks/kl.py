"""The Gaussian bottleneck of a variational autoencoder, and the settings of every KL term."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, Self

from pydantic import model_validator
from torch import Tensor

from latent_ae.config import ConfigError, LossConfig, ModelConfig
from latent_ae.config.section import CountOrNone, NotNegative
from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.bottlenecks.protocol import Bottleneck, BottleneckConfig, BottleneckOutput
from latent_ae.models.parts import ENCODER_NETWORK
from latent_ae.models.posterior import kl_nats, sample_posterior


class KLBottleneck(Bottleneck):
    """Draws z = mean + exp(logvar / 2) * noise and prices it by KL(N(mean, exp(logvar)) || N(0, 1)).

        moments [B,2c,h,w] --> mean, logvar --> z [B,c,h,w]
                                    |
                                    +--> KL per unit = (mean^2 + exp(logvar) - 1 - logvar) / 2

    (Kingma & Welling 2014, appendix B.)

    Args:
        free_bits: floor lambda in nats per latent channel and position, sum_j max(lambda, KL_j) (Kingma et al. 2016,
            eq. 14). The paper takes the maximum over minibatch averages; here it is taken per image, so that the loss
            does not depend on how a global batch is split over processes.
    """

    trains: ClassVar[dict[str, frozenset[str]]] = {"kl": frozenset(ENCODER_NETWORK)}

    def __init__(self, free_bits: float = 0.0) -> None:
        super().__init__()
        self.free_bits = free_bits

    def noise_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """One number a latent value."""
        return latent_shape

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:
        """Moments h [B,2c,h,w] and noise [B,c,h,w] from N(0, 1) => latents, and KL in nats per image."""
        mean, logvar = h.float().chunk(2, dim=1)
        latents = sample_posterior(mean, logvar, noise)
        unit_kl = kl_nats(mean, logvar)
        priced = unit_kl.clamp(min=self.free_bits) if self.free_bits else unit_kl
        return BottleneckOutput(
            latents=latents,
            losses={"kl": priced.sum(dim=(1, 2, 3))},
            stats={"kl_nats": unit_kl.detach().sum(dim=(1, 2, 3))},
            sums={},
        )

    @contextmanager
    def in_full_force(self) -> Iterator[None]:
        """Without the floor."""
        floor, self.free_bits = self.free_bits, 0.0
        try:
            yield
        finally:
            self.free_bits = floor


class KLTermConfig(LossConfig):
    """Loss settings with a KL term, beta * KL_nats / (C*H*W)."""

    beta: NotNegative | None = None
    """weight of the KL term, per pixel value: LDM's kl_weight carries over unchanged; null is 1e-6"""
    beta_schedule: Literal["constant", "linear", "cyclical"] = "constant"
    """how beta is reached: at once, by a linear warm-up, or by Fu et al.'s cyclical annealing (2019)"""
    beta_warmup_steps: CountOrNone = 0
    """linear: steps over which beta rises from 0"""
    beta_cycle_steps: CountOrNone = 0
    """cyclical: length of one cycle; beta rises over its first half and stays for the second"""
    capacity: NotNegative | None = None
    """nats per image the KL is drawn towards, |KL - C| (Burgess et al. 2018)"""
    capacity_steps: CountOrNone = 0
    """steps over which the capacity rises linearly from 0"""

    @model_validator(mode="after")
    def _schedules_have_effect(self) -> Self:
        if (self.beta_schedule == "linear") != (self.beta_warmup_steps > 0):
            raise ValueError("loss.beta_schedule linear and loss.beta_warmup_steps need one another")
        if (self.beta_schedule == "cyclical") != (self.beta_cycle_steps > 0):
            raise ValueError("loss.beta_schedule cyclical and loss.beta_cycle_steps need one another")
        if self.capacity_steps and self.capacity is None:
            raise ValueError("loss.capacity_steps has an effect only with loss.capacity")
        if self.beta == 0 and (shaping := self._shaping()):
            raise ValueError(f"loss.beta is 0, so {' and '.join(shaping)} have no effect")
        return self

    def _shaping(self) -> list[str]:
        """The settings that change the KL term, where it has a weight."""
        found = ["loss.capacity"] if self.capacity is not None else []
        return found + (["loss.beta_schedule"] if self.beta_schedule != "constant" else [])

    def with_defaults(self, *, encoder: bool, codebook: bool) -> Self:  # noqa: ARG002
        """Beta is 1e-6, or 0 with a frozen encoder."""
        if not encoder and not self.beta and (shaping := self._shaping()):
            raise ConfigError(
                f"{' and '.join(shaping)} shapes the KL term, which has no effect as model.trained leaves the encoder "
                "frozen"
            )
        return self if self.beta is not None else self.model_copy(update={"beta": 1e-6 * encoder})

    def beta_at(self, step: int | None) -> float:
        """The KL weight of an update.

        linear: beta * step / warmup_steps, until beta is reached. cyclical: within each cycle of M steps the weight
        rises from 0 to beta over the first half and stays there for the second (Fu et al. 2019, eq. 6 with R = 0.5).
        """
        beta = self.beta or 0.0
        if step is None or self.beta_schedule == "constant":
            return beta
        if self.beta_schedule == "linear":
            return beta * min(1.0, step / self.beta_warmup_steps)
        place = (step % self.beta_cycle_steps) / self.beta_cycle_steps
        return beta * min(1.0, 2.0 * place)

    def weights_at(self, step: int | None) -> dict[str, float]:
        """The weight of the term `kl`."""
        return {"kl": self.beta_at(step)}

    def capacity_at(self, step: int | None) -> float | None:
        """The KL target C in nats per image, rising linearly from 0 (Burgess et al. 2018, eq. 8)."""
        if self.capacity is None or step is None or not self.capacity_steps:
            return self.capacity
        return self.capacity * min(1.0, step / self.capacity_steps)

    def logged_at(self, step: int) -> dict[str, float]:
        """The current beta."""
        return {"beta": self.beta_at(step)}

    def conventions(self, pixel_values: int, latent_values: int) -> str | None:
        """What beta is called where the reconstruction or the KL is summed up otherwise."""
        if not (beta := self.beta):
            return None
        return (
            f"KL: beta {beta:g} here is kl_weight {beta:g} in LDM (sums over pixels and latents), "
            f"{beta / pixel_values:.3g} against a mean reconstruction and a summed KL, "
            f"{beta * latent_values / pixel_values:.3g} against means of both"
        )


class KLLossConfig(KLTermConfig):
    """With beta * KL_nats / (C*H*W), above a floor."""

    free_bits: NotNegative = 0.0
    """nats per latent channel and position below which KL costs nothing more (Kingma et al. 2016); 0 is off"""

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if self.capacity is not None and self.free_bits:
            raise ValueError("loss.capacity and loss.free_bits both reshape the KL: give one of them")
        return self

    def _shaping(self) -> list[str]:
        return ["loss.free_bits"] * bool(self.free_bits) + super()._shaping()


class KLConfig(BottleneckConfig):
    """kl: Gaussian posterior."""

    kind: Literal["kl"] = "kl"

    loss = KLLossConfig
    title = "A KL autoencoder (`diffusers.AutoencoderKL`)"
    latents_are = "sample"
    measured_on = "latents drawn from the posterior"

    def build(self, autoencoder: Autoencoder, loss: LossConfig) -> KLBottleneck:  # noqa: ARG002
        """With the loss's floor."""
        assert isinstance(loss, KLLossConfig)
        return KLBottleneck(free_bits=loss.free_bits)

    def check_model(self, model: ModelConfig) -> None:
        """Every start has an effect."""
