"""From a config to the objects that train: where configuration ends and plain arguments begin."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from latent_ae.config import DataConfig, LossConfig, RunConfig, TrainConfig
from latent_ae.data import SourceParts
from latent_ae.data.loader import TrainingSamples
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.start import linear_start, set_start_logvar
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.perceptual import PerceptualDistance, build_perceptual
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.objective import Objective, Weights
from latent_ae.training.schedules import beta_at, capacity_at

_START_SAMPLES = 512
"""training crops from which a linear start takes its principal components"""


def settled(config: RunConfig, *, precision: str, device_type: str) -> RunConfig:
    """The settings with what they leave to the launcher (precision) and to the device (memory layout) filled in."""
    channels_last = config.train.channels_last
    if channels_last is None:
        channels_last = device_type == "cuda" or precision != "no"
    filled_in = config.train.model_copy(update={"mixed_precision": precision, "channels_last": channels_last})
    return config.model_copy(update={"train": filled_in})


def build_model(config: RunConfig, parts: SourceParts) -> AutoencoderKL:
    """The autoencoder with its start weights. Raises UserError if it cannot be built."""
    autoencoder = build_autoencoder(config.model, seed=config.seed, resolution=config.data.resolution)
    if config.model.start == "linear":
        samples = build_samples(parts, config.data, seed=config.seed, channels=autoencoder.config["in_channels"])
        linear_start(autoencoder, torch.stack([samples[number].pixels for number in range(_START_SAMPLES)]))
    if config.model.start_logvar:
        set_start_logvar(autoencoder, config.model.start_logvar)
    return autoencoder


def build_objective(autoencoder: AutoencoderKL, config: RunConfig) -> Objective:
    """Autoencoder, bottleneck and loss terms, on the CPU in float32. Raises UserError for what cannot be built."""
    model = TrainableAutoencoder(autoencoder, BOTTLENECKS["kl"](free_bits=config.loss.free_bits))
    return Objective(
        model,
        RECONSTRUCTION[config.loss.reconstruction](),
        build_distance(config.loss.perceptual, autoencoder.config["in_channels"], config.loss.perceptual_weights_file),
    )


def build_distance(name: str, image_channels: int, weights_file: str | None) -> PerceptualDistance | None:
    """The perceptual distance of that name, or None for "none"."""
    if name == "none":
        return None
    return build_perceptual(
        name, image_channels=image_channels, weights_file=None if weights_file is None else Path(weights_file)
    )


def build_optimizer(objective: Objective, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over everything that learns, with the fused kernel."""
    return torch.optim.AdamW(
        [parameter for parameter in objective.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def build_samples(parts: SourceParts, config: DataConfig, *, seed: int, channels: int) -> TrainingSamples:
    """The run's endless training samples, each a pure function of the seed and its number."""
    return TrainingSamples(
        parts.train,
        seed=seed,
        channels=channels,
        resolution=config.resolution,
        crop=config.crop,
        scale=config.scale,
        flip=config.flip,
        color_gain=config.color_gain,
        background=config.background,
    )


def final_weights(config: LossConfig) -> Weights:
    """The weights of the terms once every schedule has ended."""
    return Weights(perceptual=config.perceptual_weight, beta=config.beta, capacity=config.capacity)


def weights_at(step: int, config: LossConfig) -> Weights:
    """The weights of the terms at an update."""
    return Weights(perceptual=config.perceptual_weight, beta=beta_at(step, config), capacity=capacity_at(step, config))
