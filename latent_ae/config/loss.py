"""What is minimised."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, CountOrNone, NotNegative, Positive, Section, Share


class LossConfig(Section):
    """loss = reconstruction + perceptual_weight * perceptual + the bottleneck's weighted terms, means over the batch.

    The settings that every run has. A bottleneck with terms of its own has a subclass with their weights, in its file.
    """

    reconstruction: str = "l1"
    """per-pixel term, of latent_ae.training.losses.RECONSTRUCTION; gaussian_nll learns one global log-variance"""
    perceptual: Literal["none", "random_features", "vgg", "alex", "squeeze"] = "none"
    """LPIPS with this backbone, or random_features, which needs no downloaded weights"""
    perceptual_weight: NotNegative = 0.0
    """weight of the perceptual term; LDM's value for LPIPS carries over unchanged"""
    perceptual_weights_file: str | None = None
    """torchvision's file of the LPIPS backbone; otherwise torchvision's cache, then its download"""
    latent_noise: NotNegative = 0.0
    """standard deviation of the noise added to the latents that the decoder learns from; 0 is off"""
    equivariance_share: Share = 0.0
    """share of the updates in which latents and target are scaled and rotated alike (EQ-VAE, Kouzelis et al. 2025)"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if (self.perceptual == "none") != (self.perceptual_weight == 0):
            raise ValueError(
                f"loss.perceptual {self.perceptual} and loss.perceptual_weight {self.perceptual_weight} disagree: "
                "give both or neither"
            )
        if self.perceptual_weights_file is not None and self.perceptual in ("none", "random_features"):
            raise ValueError(f"loss.perceptual_weights_file has no effect with loss.perceptual {self.perceptual}")
        return self

    def weights_at(self, step: int | None) -> dict[str, float]:  # noqa: ARG002 - no terms in the simplest case
        """The weight of each of the bottleneck's terms at an update; None: once every schedule has ended."""
        return {}

    def capacity_at(self, step: int | None) -> float | None:  # noqa: ARG002
        """The KL's target in nats per image at an update; None where there is none."""
        return None

    def with_defaults(self, *, encoder: bool, codebook: bool) -> Self:  # noqa: ARG002
        """Unset weights filled in, with 0 for a term that would train nothing.

        `encoder` and `codebook` say what the run trains. Raises ConfigError for a setting that is left without effect.
        """
        return self

    def logged_at(self, step: int) -> dict[str, float]:  # noqa: ARG002
        """What metrics.jsonl says of the schedules at an update."""
        return {}

    def conventions(self, pixel_values: int, latent_values: int) -> str | None:  # noqa: ARG002
        """What the weights are called elsewhere, one line, for images of C*H*W values and latents of c*h*w."""
        return None


class AdversarialConfig(Section):
    """A discriminator that the autoencoder is trained against."""

    loss: str = "none"
    """a loss of latent_ae.training.gan.losses.ADVERSARIAL (hinge, non_saturating); none trains without a
    discriminator"""
    weight: Positive = 0.5
    """weight of the adversarial term, times the adaptive weight if that is on"""
    adaptive: bool = True
    """balance the term with the ratio of gradient norms at the decoder's last layer (Esser et al. 2021)"""
    start_step: CountOrNone = 0
    """first update in which the autoencoder sees the discriminator"""
    warmup_steps: CountOrNone = 0
    """updates before start_step in which the discriminator already trains alone"""
    layers: Count = 3
    """stride-2 convolutions of the PatchGAN: 3 make patches of 70x70 pixels"""
    width: Count = 64
    """channels of its first layer"""
    normalization: Literal["group", "none"] = "group"
    """normalisation of its inner layers; none of the choices depends on the batch"""
    learning_rate: Positive | None = None
    """peak learning rate of the discriminator, on the same schedule; null takes train.learning_rate"""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.9)
    """AdamW's decay rates for the discriminator"""
    lecam_weight: NotNegative = 0.0
    """weight of the LeCAM regulariser (Tseng et al. 2021); 0 is off"""
    r1_weight: NotNegative = 0.0
    """gamma of the R1 penalty, gamma / 2 * |gradient|^2 on real images (Mescheder et al. 2018); 0 is off"""
    skip_above_grad_norm: Positive | None = None
    """an update of the discriminator with a larger gradient norm is skipped, as with train.skip_above_grad_norm"""
    init_from: str | None = None
    """start from this discriminator: the `discriminator` folder of a run"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.loss == "none" and (given := self.model_dump(exclude_defaults=True)):
            names = ", ".join(f"adversarial.{name}" for name in given)
            raise ValueError(f"{names} has no effect with adversarial.loss none: choose one, such as hinge")
        own = [name for name in ("layers", "width", "normalization") if name in self.model_dump(exclude_defaults=True)]
        if self.init_from is not None and own:
            names = ", ".join(f"adversarial.{name}" for name in own)
            raise ValueError(
                f"adversarial.init_from brings its own architecture, so {names} has no effect: leave it out"
            )
        if self.warmup_steps > self.start_step:
            raise ValueError(
                f"adversarial.warmup_steps {self.warmup_steps} come before adversarial.start_step {self.start_step}, "
                "so they cannot be more"
            )
        return self
