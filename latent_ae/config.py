"""What a run is: frozen pydantic models, read from strict YAML and the command line, saved with every run.

Configuration stops at the builders: layers, losses and loops receive plain arguments. Durations carry their unit in
the name (`_steps`, `_images`).
"""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from latent_ae.errors import UserError

S = TypeVar("S", bound="Section")
Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range or without effect; the message is one line."""


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which autoencoder: a preset (with changes), or an existing one to start from."""

    preset: str | None = "digits"
    """name of an architecture in latent_ae.models.PRESETS; none with init_from"""
    init_from: str | None = None
    """start from this VAE: a diffusers folder (or a folder with vae/ in it) or a hub id"""
    image_channels: Literal[1, 3] | None = None
    """colour channels of the images, instead of the preset's"""
    latent_channels: Annotated[int, Field(ge=1)] | None = None
    """channels of the latents, instead of the preset's"""
    block_out_channels: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """width of each level, instead of the preset's; n levels make a factor of 2**(n-1)"""
    layers_per_block: Annotated[int, Field(ge=1)] | None = None
    """residual blocks a level, instead of the preset's"""
    norm_num_groups: Annotated[int, Field(ge=1)] | None = None
    """groups of the group normalisation, instead of the preset's"""
    mid_block_add_attention: bool | None = None
    """self-attention at the lowest resolution, instead of the preset's"""

    start: Literal["random", "linear"] = "random"
    """start weights: diffusers' random ones, or a linear codec fitted to training crops (models/start.py)"""
    start_logvar: float = 0.0
    """added to the log-variance that the encoder starts with: below 0, training begins with little posterior noise"""

    def architecture_changes(self) -> dict[str, object]:
        """The fields that replace the preset's, by name."""
        return self.model_dump(exclude={"preset", "init_from", "start", "start_logvar"}, exclude_none=True)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.init_from is None and self.preset is None:
            raise ValueError("model.preset and model.init_from are both empty: give one of them")
        if self.init_from is not None and (self.preset is not None or self.architecture_changes()):
            given = [name for name in ("preset", *self.architecture_changes()) if getattr(self, name) is not None]
            raise ValueError(
                f"model.init_from brings its own architecture, so {', '.join('model.' + name for name in given)} "
                "would have no effect: leave it out (or set it to null)"
            )
        if self.init_from is not None and (self.start != "random" or self.start_logvar):
            raise ValueError("model.start and model.start_logvar have no effect with model.init_from: leave them out")
        return self


class DataConfig(Section):
    """Where images come from and how they are cut to training size."""

    source: str = "digits"
    """name of a source in latent_ae.data.SOURCES"""
    path: str | None = None
    """folder: a tree of images; hub: a data set's name or a local parquet/arrow/imagefolder path"""
    image_column: str | None = None
    """hub: the column that holds the images; found by its type if there is just one"""
    train_split: str | None = None
    """hub: split to train on; the data set's "train" unless named"""
    heldout_split: str | None = None
    """hub: split to hold out; the data set's "validation" or "test", or else a share of the training split"""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """folder, and hub without a held-out split: share of the images that is held out, by a hash of their id"""
    resolution: Annotated[int, Field(ge=8)] = 32
    """side of the square training crop in pixels; a multiple of the model's factor"""
    crop: Literal["random", "center"] = "center"
    """where the training crop is taken"""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """random crop: take a square of resolution times U(low, high) pixels and resize it to the resolution. Without it
    an image is resized so that its shorter side is the resolution (center), or is cropped at its own size (random)"""
    flip: bool = False
    """mirror half of the training crops left to right"""
    color_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """brightness of each colour channel of a training crop is multiplied by U(1 - g, 1 + g): more colours than a small
    data set has"""
    background: tuple[
        Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
    ] = (255, 255, 255)
    """colour (R, G, B) behind transparent pixels"""
    max_bad_share: Share = 0.01
    """the run ends once more than this share of the training images could not be read"""
    workers: Annotated[int, Field(ge=0)] = 0
    """processes that load images, per training process; 0 loads in the training process"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.scale is not None and self.crop != "random":
            raise ValueError("data.scale has an effect only with data.crop random, got data.crop center")
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ValueError(f"data.scale must be a range (low, high), got {self.scale}")
        if self.path is None and self.source in ("folder", "hub"):
            raise ValueError(f"data.source {self.source} needs data.path")
        if self.path is not None and self.source in ("digits", "photos"):
            raise ValueError(f"data.path has no effect with data.source {self.source}: leave it out")
        hub_only = [name for name in ("image_column", "train_split", "heldout_split") if getattr(self, name)]
        if hub_only and self.source != "hub":
            names = ", ".join(f"data.{name}" for name in hub_only)
            raise ValueError(f"{names} has an effect only with data.source hub, got data.source {self.source}")
        return self


class LossConfig(Section):
    """loss = reconstruction + perceptual_weight * perceptual + beta * KL_nats / (C*H*W), means over the batch."""

    reconstruction: Literal["l1", "l2", "charbonnier", "gaussian_nll"] = "l1"
    """per-pixel term; gaussian_nll learns one global log-variance"""
    perceptual: Literal["none", "random_features", "vgg", "alex", "squeeze"] = "none"
    """LPIPS with this backbone, or random_features, which needs no downloaded weights"""
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the perceptual term; LDM's value for LPIPS carries over unchanged"""
    perceptual_weights_file: str | None = None
    """torchvision's file of the LPIPS backbone; otherwise torchvision's cache, then its download"""
    beta: Annotated[float, Field(ge=0)] = 1e-6
    """weight of the KL term, per pixel value: LDM's kl_weight carries over unchanged"""
    beta_schedule: Literal["constant", "linear", "cyclical"] = "constant"
    """how beta is reached: at once, by a linear warm-up, or by Fu et al.'s cyclical annealing (2019)"""
    beta_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """linear: steps over which beta rises from 0"""
    beta_cycle_steps: Annotated[int, Field(ge=0)] = 0
    """cyclical: length of one cycle; beta rises over its first half and stays for the second"""
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """nats per latent channel and position below which KL costs nothing more (Kingma et al. 2016); 0 is off"""
    capacity: Annotated[float, Field(ge=0)] | None = None
    """nats per image the KL is drawn towards, |KL - C| (Burgess et al. 2018)"""
    capacity_steps: Annotated[int, Field(ge=0)] = 0
    """steps over which the capacity rises linearly from 0"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if (self.perceptual == "none") != (self.perceptual_weight == 0):
            raise ValueError(
                f"loss.perceptual {self.perceptual} and loss.perceptual_weight {self.perceptual_weight} disagree: "
                "give both or neither"
            )
        if self.perceptual_weights_file is not None and self.perceptual in ("none", "random_features"):
            raise ValueError(f"loss.perceptual_weights_file has no effect with loss.perceptual {self.perceptual}")
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


class TrainConfig(Section):
    """The optimisation and what is written on the way."""

    steps: Annotated[int, Field(ge=1)] = 1000
    """updates of the weights"""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """images per update over all processes and micro-batches: the global batch"""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """micro-batches a process adds up before an update"""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """peak learning rate; never scaled by the number of processes, as the global batch does not change with it"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """learning rate after the warm-up: constant, or down to final_learning_rate_share at the last step"""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """steps over which the learning rate rises linearly"""
    final_learning_rate_share: Share = 0.0
    """linear, cosine: learning rate of the last step as a share of the peak"""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment"""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay"""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """gradients are scaled down to this norm; null leaves them"""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = 0.999
    """decay of the averaged weights that are evaluated and exported; null exports the trained weights"""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """autocast over fp32 weights; null takes what `accelerate launch` was given"""
    channels_last: bool | None = None
    """NHWC memory layout; null takes it where it is faster: on a GPU and in half precision, not in float32 on a CPU"""
    compile: bool = False
    """torch.compile the autoencoder"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""
    log_every_steps: Annotated[int, Field(ge=1)] = 20
    """a line in metrics.jsonl and the tracker"""
    sample_every_steps: Annotated[int, Field(ge=0)] = 0
    """a grid of held-out images and their reconstructions; 0 draws it at the end only"""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 0
    """held-out evaluation of the averaged weights; 0 evaluates at the end only"""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 500
    """a checkpoint to resume from"""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """newest checkpoints that stay; at least two, as the newest may be damaged"""
    tracker: Literal["none", "tensorboard", "wandb"] = "tensorboard"
    """where curves go besides metrics.jsonl"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.schedule == "constant" and self.final_learning_rate_share:
            raise ValueError("train.final_learning_rate_share has no effect with train.schedule constant")
        if self.warmup_steps > self.steps:
            raise ValueError(f"train.warmup_steps {self.warmup_steps} is more than train.steps {self.steps}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"train.batch_size {self.batch_size} must be a multiple of train.accumulation {self.accumulation}"
            )
        return self


class EvaluationConfig(Section):
    """How held-out images are measured."""

    max_images: Annotated[int, Field(ge=1)] = 1000
    """held-out images that are measured, spread evenly over all of them"""
    size: Annotated[int, Field(ge=8)] | None = None
    """shorter side resized and centre cropped to this many pixels; null measures whole images at their own size"""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """images at a time where they share one size"""
    perceptual: Literal["none", "random_features", "vgg", "alex", "squeeze"] = "none"
    """perceptual distance reported beside the other measures; an LPIPS backbone that cannot be had gives null"""
    perceptual_weights_file: str | None = None
    """torchvision's file of the LPIPS backbone; otherwise torchvision's cache, then its download"""
    latent_images: Annotated[int, Field(ge=1)] = 5000
    """training images, spread evenly over all, on which scaling_factor and shift_factor are measured"""


class RunConfig(Section):
    """One training run."""

    name: str = "run"
    """the run's folder under output_dir"""
    output_dir: str = "runs"
    """folder of all runs"""
    seed: Annotated[int, Field(ge=0)] = 0
    """every random number of the run follows from it"""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def run_dir(self) -> Path:
        """Where everything the run writes goes."""
        return Path(self.output_dir) / self.name


def validate(kind: type[S], tree: dict[str, object]) -> S:
    """Check a nested dict of settings. Raises ConfigError with every violation on one line."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_violation(details) for details in error.errors())) from None


def load_yaml(path: Path) -> dict[str, object]:
    """The settings in a YAML file. Raises ConfigError if it is not readable or not a mapping."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"the config {path} must be a mapping of settings, got {type(tree).__name__}")
    return tree


def to_yaml(config: RunConfig) -> str:
    """The resolved settings as YAML that `load_yaml` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Each setting that differs, as "path: old -> new"."""
    old_flat, new_flat = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return [f"{path}: {old_flat[path]} -> {new_flat[path]}" for path in old_flat if old_flat[path] != new_flat[path]]


def flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings by their dotted path."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _violation(details: object) -> str:
    assert isinstance(details, dict)
    path = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "extra_forbidden":
            return f"unknown setting {path}"
        case "value_error":
            return str(details["ctx"]["error"])
        case _:
            return f"{path}: got {details['input']!r}; {details['msg'][0].lower()}{details['msg'][1:]}"
