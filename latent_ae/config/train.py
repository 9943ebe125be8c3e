"""How it is trained and measured."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latent_ae.config.optimization import OptimizationConfig
from latent_ae.config.section import Count, CountOrNone, NotNegative, Positive, Section, Size, sides


class TrainConfig(OptimizationConfig):
    """The optimisation and what is written on the way."""

    steps: Count = 1000
    """updates of the weights"""
    batch_size: Count = 32
    """images per update over all processes and micro-batches: the global batch"""
    learning_rate: Positive = 1e-4
    """peak learning rate; never scaled by the number of processes, as the global batch does not change with it"""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment"""
    epsilon: Positive = 1e-8
    """AdamW's epsilon"""
    skip_above_grad_norm: Positive | None = None
    """an update with a larger gradient norm (before scaling down) is skipped and counted; null skips none"""
    max_skips_in_a_row: CountOrNone = 0
    """skipped updates in a row, for a gradient norm that is not finite or too large, after which the run ends; 0 ends
    it at the first that is not finite"""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = 0.999
    """decay of the averaged weights that are evaluated and exported; null exports the trained weights"""
    channels_last: bool | None = None
    """NHWC memory layout; null takes it where it is faster: in half precision on a CPU, not on a GPU"""
    compile: bool = False
    """torch.compile the blocks of the autoencoder"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""
    sample_every_steps: CountOrNone = 0
    """a grid of held-out images and their reconstructions; 0 draws it at the end only"""
    evaluate_every_steps: CountOrNone = 0
    """held-out evaluation (validation) of the averaged weights; 0 evaluates at the end only"""
    keep_best: Literal["psnr", "ssim", "ms_ssim", "l1", "mae", "rmse", "perceptual", "rfid"] | None = None
    """the result has the weights of the validation with the best value of this held-out measure (the highest psnr, ssim
    or ms_ssim, the lowest l1, mae, rmse, perceptual or rfid); null gives it the last weights"""
    keep_best_from_step: CountOrNone = 0
    """validations after fewer updates do not count: the loss may still change then (a KL warm-up, a discriminator)"""
    patience: Count | None = None
    """the run ends after so many validations in a row without an improvement of keep_best; null makes all steps"""
    min_improvement: NotNegative = 0.0
    """patience counts an improvement only if it is larger than this, in the unit of the measure"""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.skip_above_grad_norm is not None and not self.max_skips_in_a_row:
            raise ValueError("train.skip_above_grad_norm needs train.max_skips_in_a_row, which ends a run gone wild")
        if self.keep_best is not None and not 0 < self.evaluate_every_steps < self.steps:
            raise ValueError(
                f"train.keep_best {self.keep_best} compares validations, and there is none before the last of "
                f"train.steps {self.steps}: give train.evaluate_every_steps below it, got {self.evaluate_every_steps}"
            )
        for name in ("keep_best_from_step", "patience"):
            if getattr(self, name) and self.keep_best is None:
                raise ValueError(f"train.{name} needs train.keep_best, the measure that validations are compared by")
        counted = (self.steps - 1) // max(1, self.evaluate_every_steps)  # the last validation is not in the middle
        counted -= max(0, self.keep_best_from_step - 1) // max(1, self.evaluate_every_steps)
        if self.keep_best_from_step and counted < 1:
            raise ValueError(
                f"train.keep_best_from_step {self.keep_best_from_step} leaves no validation before the last of "
                f"train.steps {self.steps}: lower it or train.evaluate_every_steps {self.evaluate_every_steps}"
            )
        if self.patience is not None and counted <= self.patience:
            raise ValueError(
                f"train.patience {self.patience} has no effect: there are {counted} validations before the last of "
                f"train.steps {self.steps}, and it takes more: lower it or train.evaluate_every_steps"
            )
        if self.min_improvement and self.patience is None:
            raise ValueError("train.min_improvement needs train.patience, which counts validations without it")
        return self


class EvaluationConfig(Section):
    """How held-out images are measured."""

    max_images: Count | None = 1000
    """images that are measured, spread evenly over all of them; null measures all"""
    size: Annotated[int | Size | None, sides("evaluation.size")] = None
    """images are brought to this side of a square, or height and width, in pixels, as data.fit says: by default the
    largest centred part is resized; null measures whole images at their own size"""
    batch_size: Count = 32
    """images at a time where they share one size"""
    pixels_at_once: Count = 1024 * 1024
    """pixels of a batch, at most: larger images are measured one by one, in strips of rows, which gives the same values
    up to the order of sums; the memory that measuring takes grows with it"""
    rgb: tuple[Count, ...] | None = None
    """channels that pictures and the perceptual measures take as grey (one) or as R, G, B (three), counted from 1"""
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
