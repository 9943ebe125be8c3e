"""What is minimised."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, CountOrNone, NotNegative, Positive, Section, Share


class LossConfig(Section):
    """loss = reconstruction + perceptual_weight * perceptual + the bottleneck's terms, means over the batch.

    The bottleneck's terms: beta * KL_nats / (C*H*W); commitment, codebook and entropy as means over latent values or
    codes, as published ones are.
    """

    reconstruction: Literal["l1", "l2", "charbonnier", "gaussian_nll"] = "l1"
    """per-pixel term; gaussian_nll learns one global log-variance"""
    perceptual: Literal["none", "random_features", "vgg", "alex", "squeeze"] = "none"
    """LPIPS with this backbone, or random_features, which needs no downloaded weights"""
    perceptual_weight: NotNegative = 0.0
    """weight of the perceptual term; LDM's value for LPIPS carries over unchanged"""
    perceptual_weights_file: str | None = None
    """torchvision's file of the LPIPS backbone; otherwise torchvision's cache, then its download"""
    beta: NotNegative | None = None
    """kl, gumbel: weight of the KL term, per pixel value: LDM's kl_weight carries over unchanged; null is 1e-6"""
    beta_schedule: Literal["constant", "linear", "cyclical"] = "constant"
    """how beta is reached: at once, by a linear warm-up, or by Fu et al.'s cyclical annealing (2019)"""
    beta_warmup_steps: CountOrNone = 0
    """linear: steps over which beta rises from 0"""
    beta_cycle_steps: CountOrNone = 0
    """cyclical: length of one cycle; beta rises over its first half and stays for the second"""
    free_bits: NotNegative = 0.0
    """nats per latent channel and position below which KL costs nothing more (Kingma et al. 2016); 0 is off"""
    capacity: NotNegative | None = None
    """nats per image the KL is drawn towards, |KL - C| (Burgess et al. 2018)"""
    capacity_steps: CountOrNone = 0
    """steps over which the capacity rises linearly from 0"""

    commitment_weight: NotNegative | None = None
    """vq, ema_vq: weight of the squared distance that draws the encoder to its codes; null is 0.25"""
    codebook_weight: NotNegative | None = None
    """vq: weight of the squared distance that draws the codes to the encoder; null is 1"""
    entropy_weight: NotNegative = 0.0
    """vq, ema_vq: weight of E[H(p)] - H(E[p]), which asks for certain codes and an evenly used codebook"""
    entropy_temperature: Positive = 0.01
    """temperature of the softmax over distances in the entropy term"""
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
        if (
            self.entropy_temperature != LossConfig.model_fields["entropy_temperature"].default
            and not self.entropy_weight
        ):
            raise ValueError("loss.entropy_temperature has an effect only with loss.entropy_weight")
        if (self.beta_schedule == "linear") != (self.beta_warmup_steps > 0):
            raise ValueError("loss.beta_schedule linear and loss.beta_warmup_steps need one another")
        if (self.beta_schedule == "cyclical") != (self.beta_cycle_steps > 0):
            raise ValueError("loss.beta_schedule cyclical and loss.beta_cycle_steps need one another")
        if self.capacity_steps and self.capacity is None:
            raise ValueError("loss.capacity_steps has an effect only with loss.capacity")
        if self.capacity is not None and self.free_bits:
            raise ValueError("loss.capacity and loss.free_bits both reshape the KL: give one of them")
        if self.beta == 0 and (self.free_bits or self.capacity is not None or self.beta_schedule != "constant"):
            raise ValueError("loss.beta is 0, so free_bits, capacity and beta_schedule have no effect")
        return self


class AdversarialConfig(Section):
    """A discriminator that the autoencoder is trained against."""

    loss: Literal["none", "hinge", "non_saturating"] = "none"
    """none trains without a discriminator"""
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
            raise ValueError(f"{names} has no effect with adversarial.loss none: choose hinge or non_saturating")
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
