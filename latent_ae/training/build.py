"""From a config to the objects that train: where configuration ends and plain arguments begin."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from latent_ae.config import LossConfig, TrainConfig
from latent_ae.data import SourceParts
from latent_ae.data.order.buckets import bucket_sizes
from latent_ae.data.values import pixel_format
from latent_ae.errors import UserError
from latent_ae.evaluation.perceptual import distance_of
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import Autoencoder, build_autoencoder, factor_of, latent_channels
from latent_ae.models.bottlenecks import Bottleneck
from latent_ae.models.discriminator import PatchDiscriminator, load_discriminator, minimum_side
from latent_ae.models.linear_start import linear_start, set_start_logvar
from latent_ae.models.parts import CODEBOOK, freeze_all_but, learns
from latent_ae.models.run_folders import PIXEL_FORMAT
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.models.transform import smallest_side
from latent_ae.training.checkpoint.files import Checkpoint
from latent_ae.training.data import training_samples
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.gan.losses import ADVERSARIAL, Discrimination, LeCam
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.noise import Draws
from latent_ae.training.objective import Objective, Weights
from latent_ae.training.settings import RunConfig
from latent_ae.training.update import GradientGuard

_START_SAMPLES = 512
"""training crops from which a linear start takes its principal components"""


def build_model(config: RunConfig) -> Autoencoder:
    """The autoencoder that a config asks for, before `start_model`. Raises UserError."""
    return build_autoencoder(config.model, config.bottleneck, seed=config.seed, resolution=config.data.resolution)


def build_pixel_format(
    config: RunConfig, parts: SourceParts, autoencoder: Autoencoder, checkpoint: Checkpoint | None
) -> PixelFormat:
    """What the values of the run's images mean: as the checkpoint says that goes on, or as the settings do.

    Raises UserError.
    """
    if checkpoint is not None and (saved := checkpoint.values.get(PIXEL_FORMAT)) is not None:
        return PixelFormat.from_json(str(saved))
    channels = autoencoder.config["in_channels"]
    return pixel_format(config.data, parts.train, channels=channels, rgb=config.evaluation.rgb)


def start_model(autoencoder: Autoencoder, config: RunConfig, parts: SourceParts, pixels: PixelFormat) -> None:
    """Give a new run's autoencoder the start weights that its settings ask for. Raises UserError."""
    model = config.model
    if model.start == "linear":
        crops = _start_crops(config, parts, pixels)
        linear_start(autoencoder, crops, whiten=not config.bottleneck.free_codes)
    if model.start_logvar:
        set_start_logvar(autoencoder, model.start_logvar)


def build_bottleneck(
    autoencoder: Autoencoder,
    config: RunConfig,
    parts: SourceParts,
    pixels: PixelFormat,
    *,
    start: bool = True,
    device: torch.device | None = None,
) -> Bottleneck:
    """The bottleneck of an autoencoder, its codebook started if it has one that wants to be and `start` is True.

    `device` is where the start's images are encoded; the autoencoder stays on the CPU. Raises UserError.
    """
    before = {name: tensor.clone() for name, tensor in autoencoder.state_dict().items() if name.startswith(CODEBOOK)}
    bottleneck = config.bottleneck.build(autoencoder, config.loss)
    if not learns(config.model.trained, CODEBOOK):
        after = autoencoder.state_dict()
        if any(not torch.equal(tensor, after[name]) for name, tensor in before.items()):
            raise UserError(
                f"bottleneck.kind {config.bottleneck.kind} with these settings asks for other codes than "
                f"{config.model.init_from} has, whose codebook model.trained leaves frozen: give those it was made with"
            )
    if start and config.bottleneck.starts_codebook(fresh=config.model.init_from is None):
        device = device or torch.device("cpu")
        crops = _start_crops(config, parts, pixels)
        autoencoder.to(device)
        with torch.no_grad():
            vectors = torch.cat([autoencoder.encode(part.to(device)).latents.cpu() for part in crops.split(16)])
        autoencoder.to("cpu")
        bottleneck.start_from(vectors.movedim(1, -1).flatten(0, 2), seed=config.seed)
    return bottleneck


def _start_crops(config: RunConfig, parts: SourceParts, pixels: PixelFormat) -> Tensor:
    samples = training_samples(parts.train, config.data, pixels, seed=config.seed)
    return torch.stack([samples[number].pixels for number in range(_START_SAMPLES)])


def build_objective(
    autoencoder: Autoencoder, bottleneck: Bottleneck, config: RunConfig, pixels: PixelFormat
) -> Objective:
    """Autoencoder, bottleneck and loss terms, on the CPU in float32, frozen where the run does not train them.

    Raises UserError for what cannot be built.
    """
    trained, loss = config.model.trained, config.loss
    frozen = frozenset() if trained is None else freeze_all_but(autoencoder, trained)
    distance = None
    if loss.perceptual != "none":
        distance = distance_of(
            loss.perceptual,
            pixels,
            background=config.data.background,
            weights_file=loss.perceptual_weights_file,
            setting="loss.perceptual",
        )
        _check_sides(
            config,
            autoencoder,
            what=f"loss.perceptual {loss.perceptual}",
            least=distance.minimum_side,
            remedy="take larger images or another network",
        )
    return Objective(
        TrainableAutoencoder(autoencoder, bottleneck), RECONSTRUCTION[loss.reconstruction](), distance, frozen
    )


def build_draws(model: TrainableAutoencoder, config: RunConfig) -> Draws:
    """The run's random numbers."""
    return Draws(
        seed=config.seed,
        latent_channels=latent_channels(model.autoencoder),
        factor=factor_of(model.autoencoder),
        noise_shape=model.bottleneck.noise_shape,
        latent_noise=config.loss.latent_noise,
        equivariance_share=config.loss.equivariance_share,
    )


def build_guards(config: RunConfig) -> dict[str, GradientGuard]:
    """What watches over the gradient norm of each side."""
    patience = config.train.max_skips_in_a_row
    return {
        "generator": GradientGuard(threshold=config.train.skip_above_grad_norm, patience=patience),
        "discriminator": GradientGuard(
            threshold=config.adversarial.skip_above_grad_norm,
            patience=patience,
            setting="adversarial.skip_above_grad_norm",
        ),
    }


def build_adversary(autoencoder: Autoencoder, config: RunConfig) -> Adversary | None:
    """The discriminator's side, or None where the run has none. Raises UserError."""
    settings = config.adversarial
    if settings.loss == "none":
        return None
    channels = autoencoder.config["in_channels"]
    if settings.init_from is not None:
        network = load_discriminator(Path(settings.init_from), in_channels=channels)
    else:
        network = PatchDiscriminator(
            channels, settings.layers, settings.width, settings.normalization, seed=config.seed
        )
    _check_sides(
        config,
        autoencoder,
        what=f"a discriminator of {network.layers} layers",
        least=minimum_side(network.layers),
        remedy="lower adversarial.layers",
    )
    if settings.adaptive and not autoencoder.decoder.conv_out.weight.requires_grad:
        raise UserError(
            "adversarial.adaptive compares gradients at the decoder's last layer, which model.trained freezes: "
            "give adversarial.adaptive false"
        )
    module = Discrimination(network, ADVERSARIAL[settings.loss], LeCam() if settings.lecam_weight else None)
    return Adversary(
        network,
        module,
        _adamw(list(network.parameters()), config.train, rate=settings.learning_rate, betas=settings.betas),
        ADVERSARIAL[settings.loss],
        autoencoder.decoder.conv_out.weight,
        weights={"discriminator": 1.0, "lecam": settings.lecam_weight, "r1": settings.r1_weight / 2},
        weight=settings.weight,
        adaptive=settings.adaptive,
        start_step=settings.start_step,
        warmup_steps=settings.warmup_steps,
    )


def _check_sides(config: RunConfig, autoencoder: Autoencoder, *, what: str, least: int, remedy: str) -> None:
    """Raises UserError if what sees the images needs longer sides than this run may bring it, at whatever update."""
    data, side = config.data, min(config.data.crop_size)
    if side < least:
        raise UserError(f"{what} needs a data.resolution of at least {least}, got {side}: {remedy}")
    if data.buckets:
        sizes = bucket_sizes(data.crop_size, multiple=data.bucket_multiple, max_aspect=data.bucket_max_aspect)
        side = min(min(size) for size in sizes)
    if config.loss.equivariance_share:
        side = smallest_side(side, factor_of(autoencoder))
    if side < least:
        raise UserError(
            f"{what} needs sides of at least {least} pixels, and data.buckets or loss.equivariance_share bring them "
            f"down to {side}: {remedy}"
        )


def build_optimizer(objective: Objective, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over everything that learns, with the fused kernel. Codes do not decay: they would sink to the origin."""
    codebook = getattr(objective.model.autoencoder, CODEBOOK, None)
    codes = [] if codebook is None else [parameter for parameter in codebook.parameters() if parameter.requires_grad]
    taken = set(codes)
    others = [parameter for parameter in objective.parameters() if parameter.requires_grad and parameter not in taken]
    return _adamw(others, config, without_decay=codes)


def _adamw(
    parameters: list[nn.Parameter],
    config: TrainConfig,
    *,
    rate: float | None = None,
    betas: tuple[float, float] | None = None,
    without_decay: Sequence[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    peak = rate or config.learning_rate
    groups: list[dict[str, object]] = [
        {"params": parameters, "peak": peak},
        {"params": list(without_decay), "peak": peak, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=peak,
        betas=betas or config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def weights_at(step: int | None, config: LossConfig, *, adversarial: float = 0.0) -> Weights:
    """The weights of the terms at an update; None: once every schedule has ended.

    That of the adversarial term is measured, not scheduled.
    """
    terms = {"perceptual": config.perceptual_weight, "adversarial": adversarial}
    return Weights({**terms, **config.weights_at(step)}, config.capacity_at(step))
