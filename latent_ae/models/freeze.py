"""Training parts of an autoencoder: everything else keeps its weights to the last bit."""

from collections.abc import Sequence

from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.errors import ModelError

_SIDES = {"encoder": ("encoder.", "quant_conv.", "quantize."), "decoder": ("post_quant_conv.", "decoder.")}
"""beginnings of the parameter names of each side; a codebook belongs to the encoder, as the codes are its latents"""


def freeze_all_but(model: Autoencoder, parts: Sequence[str]) -> frozenset[str]:
    """Let only the named parts learn, in place; the names of the modules in which nothing learns any more.

    Args:
        model: all of its parameters may learn so far.
        parts: "encoder", "decoder", or the beginnings of parameter names, whole words of them (decoder.conv_out).

    Raises ModelError for a part that the model does not have, with those that it has.
    """
    parameters = dict(model.named_parameters())
    wanted: set[str] = set()
    for part in parts:
        beginnings = _SIDES.get(part, (f"{part}.",))
        found = {name for name in parameters if name.startswith(beginnings) or name == part}
        if not found:
            names = ", ".join(dict.fromkeys(name.split(".")[0] for name in parameters))
            raise ModelError(f"model.trained {part}: the model has no such part; its parts are {names}")
        wanted |= found
    for name, parameter in parameters.items():
        parameter.requires_grad_(parameter.requires_grad and name in wanted)
    modules = {name.split(".")[0] for name in parameters}
    return frozenset(modules - {name.split(".")[0] for name in wanted})


def encoder_learns(trained: Sequence[str] | None) -> bool:
    """Whether anything on the encoder's side learns where these parts do (None: all), so that latents become others."""
    side = _SIDES["encoder"]
    return trained is None or any(part == "encoder" or f"{part}.".startswith(side) for part in trained)
