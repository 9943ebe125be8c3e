"""How it is trained and measured."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, CountOrNone, NotNegative, Positive, Section, Share


class TrainConfig(Section):
    """The optimisation and what is written on the way."""

    steps: Count = 1000
    """updates of the weights"""
    batch_size: Count = 32
    """images per update over all processes and micro-batches: the global batch"""
    accumulation: Count = 1
    """micro-batches a process adds up before an update"""
    learning_rate: Positive = 1e-4
    """peak learning rate; never scaled by the number of processes, as the global batch does not change with it"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """learning rate after the warm-up: constant, or down to final_learning_rate_share at the last step"""
    warmup_steps: CountOrNone = 0
    """steps over which the learning rate rises linearly"""
    final_learning_rate_share: Share = 0.0
    """linear, cosine: learning rate of the last step as a share of the peak"""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment"""
    epsilon: Positive = 1e-8
    """AdamW's epsilon"""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay"""
    max_grad_norm: Positive | None = 1.0
    """gradients are scaled down to this norm; null leaves them"""
    skip_above_grad_norm: Positive | None = None
    """an update with a larger gradient norm (before scaling down) is skipped and counted; null skips none"""
    max_skips_in_a_row: CountOrNone = 0
    """skipped updates in a row, for a gradient norm that is not finite or too large, after which the run ends; 0 ends
    it at the first that is not finite"""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = 0.999
    """decay of the averaged weights that are evaluated and exported; null exports the trained weights"""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """autocast over fp32 weights; null takes what `accelerate launch` was given; fp16 needs a GPU"""
    channels_last: bool | None = None
    """NHWC memory layout; null takes it where it is faster: in half precision on a CPU, not on a GPU"""
    compile: bool = False
    """torch.compile the blocks of the autoencoder"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""
    log_every_steps: Count = 20
    """a line in metrics.jsonl and the tracker"""
    sample_every_steps: CountOrNone = 0
    """a grid of held-out images and their reconstructions; 0 draws it at the end only"""
    evaluate_every_steps: CountOrNone = 0
    """held-out evaluation of the averaged weights; 0 evaluates at the end only"""
    checkpoint_every_steps: Count = 500
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
        if self.skip_above_grad_norm is not None and not self.max_skips_in_a_row:
            raise ValueError("train.skip_above_grad_norm needs train.max_skips_in_a_row, which ends a run gone wild")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"train.batch_size {self.batch_size} must be a multiple of train.accumulation {self.accumulation}"
            )
        return self


class EvaluationConfig(Section):
    """How held-out images are measured."""

    max_images: Count = 1000
    """held-out images that are measured, spread evenly over all of them"""
    size: Annotated[int, Field(ge=8)] | None = None
    """shorter side resized and centre cropped to this many pixels; null measures whole images at their own size"""
    batch_size: Count = 32
    """images at a time where they share one size"""
    perceptual: Literal["none", "random_features", "vgg", "alex", "squeeze"] = "none"
    """perceptual distance reported beside the other measures; an LPIPS backbone that cannot be had gives null"""
    perceptual_weights_file: str | None = None
    """torchvision's file of the LPIPS backbone; otherwise torchvision's cache, then its download"""
    fid: bool = False
    """report rFID, by the Inception network (the extra "fid" and its weights); null with the reason without them"""
    fid_weights_file: str | None = None
    """torch-fidelity's file of the Inception weights; otherwise torch hub's cache"""
    equivariance: bool = False
    """report how far the latents of a turned, mirrored or halved image are from the turned latents"""
    latent_images: Count = 5000
    """training images, spread evenly over all, on which scaling_factor and shift_factor are measured"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.fid_weights_file is not None and not self.fid:
            raise ValueError("evaluation.fid_weights_file has an effect only with evaluation.fid true")
        if self.perceptual_weights_file is not None and self.perceptual in ("none", "random_features"):
            raise ValueError(
                f"evaluation.perceptual_weights_file has no effect with evaluation.perceptual {self.perceptual}"
            )
        return self
