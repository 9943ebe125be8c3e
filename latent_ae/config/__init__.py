"""The sections of settings: frozen pydantic models, read from strict YAML and the command line, saved with every run.

Configuration stops at the builders: layers, losses and loops receive plain arguments. Durations carry their unit in
the name (`_steps`, `_images`). A setting that has no effect in a run is an error.
"""

from latent_ae.config.loss import AdversarialConfig, LossConfig
from latent_ae.config.model import ModelConfig
from latent_ae.config.optimization import OptimizationConfig, RunSettings
from latent_ae.config.section import ConfigError, S, Section, differences, flatten, load_yaml, to_yaml, validate
from latent_ae.config.train import EvaluationConfig, TrainConfig

__all__ = [
    "AdversarialConfig",
    "ConfigError",
    "EvaluationConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizationConfig",
    "RunSettings",
    "S",
    "Section",
    "TrainConfig",
    "differences",
    "flatten",
    "load_yaml",
    "to_yaml",
    "validate",
]
