"""What every training asks for, of images or of latents."""

from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, CountOrNone, NotNegative, Positive, Section, Share


class OptimizationConfig(Section):
    """The optimisation and what is written on the way."""

    steps: Count
    """updates of the weights"""
    batch_size: Count
    """samples per update over all processes and micro-batches: the global batch"""
    accumulation: Count = 1
    """micro-batches a process adds up before an update"""
    learning_rate: Positive
    """peak learning rate of AdamW; never scaled by the number of processes, as the global batch does not change with
    it"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """learning rate after the warm-up: constant, or down to final_learning_rate_share at the last step"""
    warmup_steps: CountOrNone = 0
    """steps over which the learning rate rises linearly"""
    final_learning_rate_share: Share = 0.0
    """linear, cosine: learning rate of the last step as a share of the peak"""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay"""
    max_grad_norm: Positive | None = 1.0
    """gradients are scaled down to this norm; null leaves them"""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """autocast over fp32 weights; null takes what `accelerate launch` was given; fp16 needs a GPU"""
    log_every_steps: Count = 20
    """a line in metrics.jsonl and the tracker"""
    checkpoint_every_steps: Count = 500
    """a checkpoint to resume from"""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """newest checkpoints that stay; at least two, as the newest may be damaged"""
    tracker: Literal["none", "tensorboard", "wandb"] = "tensorboard"
    """where curves go besides metrics.jsonl"""

    @model_validator(mode="after")
    def _course_has_effect(self) -> Self:
        if self.schedule == "constant" and self.final_learning_rate_share:
            raise ValueError("train.final_learning_rate_share has no effect with train.schedule constant")
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"train.warmup_steps {self.warmup_steps} is more than train.steps {self.steps}: lower it too"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"train.batch_size {self.batch_size} must be a multiple of train.accumulation {self.accumulation}"
            )
        return self


class RunSettings(Protocol):
    """What the engine of training asks of the settings of any run."""

    @property
    def name(self) -> str:
        """The run's folder under output_dir."""

    @property
    def output_dir(self) -> str:
        """Folder of all runs."""

    @property
    def run_dir(self) -> Path:
        """Where everything the run writes goes."""

    @property
    def train(self) -> OptimizationConfig:
        """The optimisation and what is written on the way."""

    @property
    def free_to_change(self) -> tuple[str, ...]:
        """Settings (or sections) that do not change what results, so that a resumed run may differ in them."""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """As a tree of plain values."""
