"""One run: all sections, and what they ask of one another."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from latent_ae.config.data import DataConfig
from latent_ae.config.loss import AdversarialConfig, LossConfig
from latent_ae.config.model import BottleneckConfig, ModelConfig
from latent_ae.config.section import CountOrNone, Section
from latent_ae.config.train import EvaluationConfig, TrainConfig


class RunConfig(Section):
    """One training run."""

    name: str = "run"
    """the run's folder under output_dir"""
    output_dir: str = "runs"
    """folder of all runs"""
    seed: CountOrNone = 0
    """every random number of the run follows from it"""
    model: ModelConfig = ModelConfig()
    bottleneck: BottleneckConfig = BottleneckConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def run_dir(self) -> Path:
        """Where everything the run writes goes."""
        return Path(self.output_dir) / self.name

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        loss, kind = self.loss, self.bottleneck.kind
        idle = []
        if kind not in ("kl", "gumbel"):
            idle += [name for name in ("beta", "free_bits") if getattr(loss, name)]
            idle += ["capacity"] if loss.capacity is not None else []
            idle += ["beta_schedule"] if loss.beta_schedule != "constant" else []
        if kind not in ("vq", "ema_vq"):
            idle += [name for name in ("commitment_weight", "entropy_weight") if getattr(loss, name)]
        if kind != "vq" and loss.codebook_weight:
            idle.append("codebook_weight")
        if kind == "gumbel" and loss.free_bits:
            idle.append("free_bits")
        if idle:
            names = ", ".join(f"loss.{name}" for name in idle)
            raise ValueError(f"{names} has no effect with bottleneck.kind {kind}: leave it out")
        if kind != "kl" and self.model.start_logvar:
            raise ValueError(f"model.start_logvar has no effect with bottleneck.kind {kind}: leave it out")
        sizes = (self.bottleneck.codebook_size, self.bottleneck.code_channels)
        if self.model.init_from is None and kind in ("vq", "ema_vq", "gumbel") and sizes[0] is None:
            raise ValueError(f"bottleneck.kind {kind} needs bottleneck.codebook_size, the number of codes")
        if self.model.init_from is not None and any(sizes):
            raise ValueError(
                "model.init_from brings its own codebook, so bottleneck.codebook_size and bottleneck.code_channels "
                "would have no effect: leave them out"
            )
        if self.adversarial.skip_above_grad_norm is not None and not self.train.max_skips_in_a_row:
            raise ValueError("adversarial.skip_above_grad_norm needs train.max_skips_in_a_row, which ends a wild run")
        if self.adversarial.start_step >= self.train.steps and self.adversarial.loss != "none":
            raise ValueError(
                f"adversarial.start_step {self.adversarial.start_step} is not before the last of train.steps "
                f"{self.train.steps}: the autoencoder would never see the discriminator"
            )
        return self
