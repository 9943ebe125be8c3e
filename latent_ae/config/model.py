"""Which autoencoder is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, NotNegative, Section

BottleneckKind = Literal["kl", "identity", "vq", "ema_vq", "fsq", "gumbel"]


class ModelConfig(Section):
    """Which autoencoder: a preset (with changes), or an existing one to start from."""

    preset: str | None = "digits"
    """name of an architecture in latent_ae.models.PRESETS; none with init_from"""
    init_from: str | None = None
    """start from this VAE: a diffusers folder (or one with vae/ in it), a run's folder, a hub id, or a single file"""
    image_channels: Literal[1, 3] | None = None
    """colour channels of the images, instead of the preset's"""
    latent_channels: Count | None = None
    """channels of the latents, instead of the preset's"""
    block_out_channels: tuple[Count, ...] | None = None
    """width of each level, instead of the preset's; n levels make a factor of 2**(n-1)"""
    layers_per_block: Count | None = None
    """residual blocks a level, instead of the preset's"""
    norm_num_groups: Count | None = None
    """groups of the group normalisation, instead of the preset's, or of a single file, which does not say"""
    mid_block_add_attention: bool | None = None
    """self-attention at the lowest resolution, instead of the preset's"""

    trained: tuple[str, ...] | None = None
    """parts that learn, all others are frozen: encoder (with quant_conv), decoder (with post_quant_conv), or the
    beginnings of parameter names such as decoder.conv_out; null trains everything"""
    start: Literal["random", "linear"] = "random"
    """start weights: diffusers' random ones, or a linear codec fitted to training crops (models/linear_start.py)"""
    start_logvar: float = 0.0
    """added to the log-variance that the encoder starts with: below 0, training begins with little posterior noise"""

    def architecture_changes(self) -> dict[str, object]:
        """The fields that replace the preset's, by name."""
        return self.model_dump(exclude={"preset", "init_from", "trained", "start", "start_logvar"}, exclude_none=True)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.init_from is None and self.preset is None:
            raise ValueError("model.preset and model.init_from are both empty: give one of them")
        changes = [name for name in self.architecture_changes() if name != "norm_num_groups"]  # no file shows it
        if self.init_from is not None and (self.preset is not None or changes):
            given = [name for name in ("preset", *changes) if getattr(self, name) is not None]
            raise ValueError(
                f"model.init_from brings its own architecture, so {', '.join('model.' + name for name in given)} "
                "would have no effect: leave it out (or set it to null)"
            )
        if self.init_from is not None and (self.start != "random" or self.start_logvar):
            raise ValueError("model.start and model.start_logvar have no effect with model.init_from: leave them out")
        return self


_USED_BY: dict[str, tuple[BottleneckKind, ...]] = {
    "codebook_size": ("vq", "ema_vq", "gumbel"),
    "code_channels": ("vq", "ema_vq", "gumbel"),
    "levels": ("fsq",),
    "l2_normalized": ("vq", "ema_vq"),
    "kmeans_start": ("vq", "ema_vq"),
    "revive_below": ("vq", "ema_vq"),
    "rotation_trick": ("vq", "ema_vq"),
    "decay": ("ema_vq",),
    "temperature": ("gumbel",),
    "temperature_steps": ("gumbel",),
    "straight_through": ("gumbel",),
}
"""the bottlenecks that each setting has an effect on"""


class BottleneckConfig(Section):
    """What happens between encoder and decoder. kl and identity make an AutoencoderKL, the others a VQModel."""

    kind: BottleneckKind = "kl"
    """kl: Gaussian posterior; identity: a plain autoencoder; vq, ema_vq: codebook trained by gradient or by moving
    averages; fsq: finite scalar quantisation; gumbel: the Gumbel-softmax of DALL-E's dVAE"""
    codebook_size: Annotated[int, Field(ge=2)] | None = None
    """vq, ema_vq, gumbel: number of codes K"""
    code_channels: Count | None = None
    """vq, ema_vq, gumbel: channels of a code; the preset's latent_channels unless given"""
    levels: tuple[Annotated[int, Field(ge=2)], ...] | None = None
    """fsq: values per latent channel; their product is the number of codes"""
    l2_normalized: bool = False
    """vq, ema_vq: codes and vectors on the unit sphere"""
    kmeans_start: bool = False
    """vq, ema_vq: start the codes at the k-means of what the fresh encoder gives"""
    revive_below: NotNegative = 0.0
    """vq, ema_vq: a code with fewer uses per update than this, on a moving average, is moved to where vectors are; 0
    leaves unused codes alone"""
    rotation_trick: bool = False
    """vq, ema_vq: gradients reach the encoder rotated (Fifty et al. 2024) instead of straight through"""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """ema_vq: decay of the codes' moving averages"""
    temperature: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 0.0625)
    """gumbel: temperature of the softmax at the first update and after temperature_steps"""
    temperature_steps: Annotated[int, Field(ge=0)] = 0
    """gumbel: updates over which the temperature falls; 0 keeps the first"""
    straight_through: bool = False
    """gumbel: give the decoder one code (with the soft gradient) instead of a mixture"""

    @property
    def stock_class(self) -> Literal["AutoencoderKL", "VQModel"]:
        """The diffusers class that such a bottleneck trains."""
        return "AutoencoderKL" if self.kind in ("kl", "identity") else "VQModel"

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        default = BottleneckConfig.model_fields
        idle = [
            name
            for name, kinds in _USED_BY.items()
            if self.kind not in kinds and getattr(self, name) != default[name].default
        ]
        if idle:
            names = ", ".join(f"bottleneck.{name}" for name in idle)
            raise ValueError(f"{names} has no effect with bottleneck.kind {self.kind}: leave it out")
        (first, second), default_second = self.temperature, default["temperature"].default[1]
        if not self.temperature_steps and second not in (first, default_second):
            raise ValueError(
                f"bottleneck.temperature {first:g} {second:g} never comes to {second:g} with "
                "bottleneck.temperature_steps 0: give the updates over which it falls"
            )
        if self.kind == "fsq" and not self.levels:
            raise ValueError("bottleneck.kind fsq needs bottleneck.levels, the values per latent channel, e.g. 8 5 5 5")
        return self
