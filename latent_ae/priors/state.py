"""What a checkpoint of a prior holds."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import ModelMixin

from latent_ae.training.checkpoint.files import CheckpointError
from latent_ae.training.checkpoint.state import ModelState

LATENTS, IMAGES, SCALING = "latents", "images_of_latents", "scaling_factor"
"""entries of a checkpoint's values"""
_OTHERS = {
    LATENTS: "other latents (fingerprint {there}, here {here}): give another --name",
    IMAGES: "latents of other images, though they were made in the same manner and have the same names (fingerprint "
    "{there}, here {here}): give another --name",
    SCALING: "latents times {there}, and the autoencoder's scaling_factor is now {here}: put the old number into its "
    "config.json, or give another --name",
}
"""what a checkpoint was trained on that this run is not"""


class PriorState(ModelState[ModelMixin]):
    """A network's, bound to the latents that it is trained on.

    Args:
        network: as built, not as prepared.
        optimizer: over its parameters.
        ema_decay: of the average.
        latents: fingerprint of how the latents were made.
        images: fingerprint of the images that they are of.
        scaling_factor: that they are multiplied by; None if by nothing.
        untrained: makes another network of the same config; None: as diffusers does.
    """

    def __init__(
        self,
        network: ModelMixin,
        optimizer: torch.optim.Optimizer,
        *,
        ema_decay: float,
        latents: str,
        images: str,
        scaling_factor: float | None,
        untrained: Callable[[], ModelMixin] | None = None,
    ) -> None:
        super().__init__(network, optimizer, ema_decay)
        self._untrained = untrained or super().untrained
        self._trained_on = {LATENTS: latents, IMAGES: images, SCALING: scaling_factor}

    def untrained(self) -> ModelMixin:
        """Another network of the same config."""
        return self._untrained()

    def others(self) -> dict[str, object]:
        """Fingerprints of the latents and of their images, and what latents are multiplied by."""
        return dict(self._trained_on)

    def restore_others(self, values: Mapping[str, Any]) -> None:
        """Raises CheckpointError if it is of other latents, of other images, or of latents times another number."""
        for name, here in self._trained_on.items():
            there = values.get(name, here)  # checkpoints of earlier versions do not say all
            if there != here:
                raise CheckpointError(f"the checkpoint was trained on {_OTHERS[name].format(there=there, here=here)}")
