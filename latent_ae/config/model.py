"""Which autoencoder is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, Section


class ModelConfig(Section):
    """Which autoencoder: a preset (with changes), or an existing one to start from."""

    preset: str | None = "digits"
    """name of an architecture in latent_ae.models.PRESETS; none with init_from"""
    init_from: str | None = None
    """start from this VAE: a diffusers folder (or one with vae/ in it), a run's folder, a hub id, or a single file"""
    image_channels: Annotated[int, Field(ge=1, le=64)] | None = None
    """channels of the images, instead of the preset's or init_from's: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA, or
    as many as files of numbers have (data.value_range)"""
    latent_channels: Count | None = None
    """channels of the latents, instead of the preset's or init_from's (for a VQModel those of its codes)"""
    new_channels: Literal["zero", "average"] | None = None
    """weights of the image channels that init_from lacks: zero (null too), or the average of the others'"""
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
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """type of the numbers in the model directory, to which the result is rounded before it is measured"""

    def architecture_changes(self) -> dict[str, object]:
        """The fields that replace the preset's, by name."""
        own = {"preset", "init_from", "new_channels", "trained", "start", "start_logvar", "dtype"}
        return self.model_dump(exclude=own, exclude_none=True)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.init_from is None and self.preset is None:
            raise ValueError("model.preset and model.init_from are both empty: give one of them")
        # Channels are adapted, and no file shows the groups.
        changes = self.architecture_changes().keys() - {"image_channels", "latent_channels", "norm_num_groups"}
        if self.init_from is not None and (self.preset is not None or changes):
            given = [name for name in ("preset", *sorted(changes)) if getattr(self, name) is not None]
            raise ValueError(
                f"model.init_from brings its own architecture, so {', '.join('model.' + name for name in given)} "
                "would have no effect: leave it out (or set it to null)"
            )
        if self.init_from is not None and (self.start != "random" or self.start_logvar):
            raise ValueError("model.start and model.start_logvar have no effect with model.init_from: leave them out")
        if self.new_channels is not None and (self.init_from is None or self.image_channels is None):
            raise ValueError(
                "model.new_channels has an effect only with model.init_from and a larger model.image_channels"
            )
        return self
