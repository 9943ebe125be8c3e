"""What a run's settings leave open, filled in once it is known where the run takes place and what it trains."""

from latent_ae.models.parts import CODEBOOK, ENCODER_NETWORK, learns
from latent_ae.training.settings import RunConfig


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
    trained = config.model.trained
    codebook = learns(trained, CODEBOOK)
    if not codebook:
        config.bottleneck.check_frozen_codebook()
    encoder = any(learns(trained, module) for module in ENCODER_NETWORK)
    loss = config.loss.with_defaults(encoder=encoder, codebook=codebook)
    return config.model_copy(update={"train": train, "loss": loss})
