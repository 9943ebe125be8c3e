"""What a checkpoint of a prior holds."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ModelMixin

from latent_ae.training.checkpoint.files import CheckpointError
from latent_ae.training.checkpoint.state import ModelState

LATENTS, IMAGES, SCALING = "latents", "images_of_latents", "scaling_factor"
"""entries of a checkpoint's values"""


class PriorState(ModelState[ModelMixin]):
    """A network's, bound to the latents that it is trained on.

    Args:
        network: as built, not as prepared.
        optimizer: over its parameters.
        ema_decay: of the average.
        latents: fingerprint of how the latents were made.
        images: fingerprint of the images that they are of.
        scaling_factor: that they are multiplied by; None if by nothing.
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
    ) -> None:
        super().__init__(network, optimizer, ema_decay)
        self._latents, self._images, self._scaling_factor = latents, images, scaling_factor

    def others(self) -> dict[str, object]:
        """Fingerprints of the latents and of their images, and what latents are multiplied by."""
        return {LATENTS: self._latents, IMAGES: self._images, SCALING: self._scaling_factor}

    def restore_others(self, values: Mapping[str, Any]) -> None:
        """Raises CheckpointError if it is of other latents, of other images, or of latents times another number."""
        if values[LATENTS] != self._latents:
            raise CheckpointError(
                f"the checkpoint was trained on other latents (fingerprint {values[LATENTS]}, here {self._latents}): "
                "give another --name"
            )
        images = values.get(IMAGES, self._images)  # checkpoints of earlier versions do not say
        if images != self._images:
            raise CheckpointError(
                f"the checkpoint was trained on latents of other images, though they were made in the same manner and "
                f"have the same names (fingerprint {images}, here {self._images}): give another --name"
            )
        scaling = values.get(SCALING, self._scaling_factor)  # checkpoints of earlier versions do not say
        if scaling != self._scaling_factor:
            raise CheckpointError(
                f"the checkpoint was trained on latents times {scaling}, and the autoencoder's scaling_factor is now "
                f"{self._scaling_factor}: put the old number into its config.json, or give another --name"
            )
