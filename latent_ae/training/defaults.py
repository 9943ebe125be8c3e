"""What a run's settings leave open, filled in once it is known where the run takes place and what it trains."""

from latent_ae.config import ConfigError, RunConfig
from latent_ae.models.parts import CODEBOOK, ENCODER_NETWORK, learns


def settled(config: RunConfig, *, precision: str, device_type: str) -> RunConfig:
    """The settings with what they leave to the launcher (precision), the device (memory layout) and the bottleneck
    (weights of its terms) filled in: a term that would train nothing gets the weight 0.

    Raises ConfigError for a setting that a frozen encoder leaves without effect.
    """
    channels_last = config.train.channels_last
    if channels_last is None:
        # torch's normalisation for a GPU knows torch's own order alone, and all else is turned around for it.
        channels_last = device_type == "cpu" and precision != "no"
    train = config.train.model_copy(update={"mixed_precision": precision, "channels_last": channels_last})
    kind, trained = config.bottleneck.kind, config.model.trained
    encoder = any(learns(trained, module) for module in ENCODER_NETWORK)
    codebook = learns(trained, CODEBOOK)
    if not codebook and config.bottleneck.kmeans_start:
        raise ConfigError(
            "bottleneck.kmeans_start would move a codebook that model.trained leaves frozen: leave it out"
        )
    if not codebook and config.bottleneck.revive_below:
        raise ConfigError(
            "bottleneck.revive_below would move a codebook that model.trained leaves frozen: leave it out"
        )
    shaped = ["free_bits"] if config.loss.free_bits else []
    shaped += ["capacity"] if config.loss.capacity is not None else []
    shaped += ["beta_schedule"] if config.loss.beta_schedule != "constant" else []
    if kind in ("kl", "gumbel") and not encoder and not config.loss.beta and shaped:
        names = " and ".join(f"loss.{name}" for name in shaped)
        raise ConfigError(f"{names} shapes the KL term, which has no effect as model.trained leaves the encoder frozen")
    defaults = {
        "beta": 1e-6 * encoder if kind in ("kl", "gumbel") else None,
        "commitment_weight": 0.25 * encoder if kind in ("vq", "ema_vq") else None,
        "codebook_weight": 1.0 * codebook if kind == "vq" else None,
    }
    given = {name: getattr(config.loss, name) for name in defaults}
    loss = config.loss.model_copy(
        update={name: defaults[name] if value is None else value for name, value in given.items()}
    )
    return config.model_copy(update={"train": train, "loss": loss})
