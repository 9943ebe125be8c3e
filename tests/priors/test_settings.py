import pytest

from latent_ae.config import ConfigError
from latent_ae.priors.settings import parse_prior_run

WORDS = ["--prior.kind", "hierarchy", "--latents", "x"]


def test_few_steps_shorten_the_warmups_of_a_kind() -> None:
    """A hierarchy makes 2500 updates, both of its warm-ups 100 of them."""
    config, _, note = parse_prior_run([*WORDS, "--train.steps", "50"])
    assert (config.train.steps, config.train.warmup_steps, config.prior.kl_warmup_steps) == (50, 2, 2)
    assert note.endswith(": train.warmup_steps 100 -> 2, prior.kl_warmup_steps 100 -> 2")
    config, _, note = parse_prior_run([*WORDS, "--train.steps", "100"])
    assert (config.train.warmup_steps, config.prior.kl_warmup_steps, note) == (100, 100, "")


def test_a_warmup_that_was_asked_for_is_not_shortened() -> None:
    with pytest.raises(ConfigError, match=r"train\.warmup_steps 100 is more than train\.steps 50: lower it too"):
        parse_prior_run([*WORDS, "--train.steps", "50", "--train.warmup_steps", "100"])
