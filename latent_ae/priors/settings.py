"""What training on latents asks for, whatever the network."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from latent_ae.config.optimization import OptimizationConfig
from latent_ae.config.section import Count, CountOrNone, Positive, Section


class LatentTrainConfig(OptimizationConfig):
    """The optimisation and what is written on the way."""

    steps: Count = 1500
    """updates of the weights"""
    batch_size: Count = 128
    """latents per update over all processes and micro-batches: the global batch"""
    learning_rate: Positive = 1e-3
    """peak learning rate of AdamW"""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """learning rate after the warm-up: constant, or down to final_learning_rate_share at the last step"""
    warmup_steps: CountOrNone = 100
    """steps over which the learning rate rises linearly"""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """decay of the averaged weights that are sampled from and exported"""
    workers: CountOrNone = 0
    """processes that read latents ahead; they lie in memory, so that few networks are fast enough to need any"""
    log_every_steps: Count = 50
    """a line in metrics.jsonl and the tracker"""
    sample_every_steps: CountOrNone = 0
    """a grid of draws; 0 draws it at the end only"""


class LatentRunConfig(Section):
    """One run on latents."""

    RESULT: ClassVar[str]
    """folder of the result in that of the run"""
    INDEX: ClassVar[str]
    """JSON file that diffusers knows the result by"""

    latents: str | None = None
    """folder that train/encode_dataset.py made; has to be given"""
    model: str | None = None
    """the autoencoder that made them; null takes the one that their manifest names"""
    name: str = "run"
    """the run's folder under output_dir"""
    output_dir: str = "runs"
    """folder of all runs"""
    seed: CountOrNone = 0
    """every random number of the run follows from it"""
    train: LatentTrainConfig = LatentTrainConfig()

    @property
    def run_dir(self) -> Path:
        """Where everything the run writes goes."""
        return Path(self.output_dir) / self.name

    @property
    def result_dir(self) -> Path:
        """Where the result goes; it is there once the run is finished."""
        return self.run_dir / self.RESULT


SAMPLES = "samples.png"
"""a grid of draws, in the folder of every result"""
FREE_TO_CHANGE = (
    "name",
    "output_dir",
    "latents",
    "model",
    "sampling.",
    "train.accumulation",
    "train.workers",
    "train.log_every_steps",
    "train.sample_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.tracker",
)
"""settings (or sections) that do not change which model is trained; the latents are known by their fingerprint"""
