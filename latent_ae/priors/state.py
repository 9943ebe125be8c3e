"""Everything of a run that changes with the steps."""

from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers import __version__ as diffusers_version
from diffusers.training_utils import EMAModel
from torch import Tensor

from latent_ae._version import __version__
from latent_ae.training.checkpoint.files import Checkpoint, CheckpointError
from latent_ae.training.checkpoint.tensors import load_optimizer, load_tensors, on_cpu, optimizer_tensors

LATENTS = "latents"
"""the entry of a checkpoint's values with the fingerprint of the latents that were trained on"""
IMAGES = "images_of_latents"
"""the entry with the fingerprint of the images that they are of"""
SCALING = "scaling_factor"
"""the entry with what they are multiplied by"""


N = TypeVar("N", bound=ModelMixin)


class LatentModelState(Generic[N]):
    """The network's weights, their average and the optimizer.

    Args:
        network: as built, not as prepared: its names carry no wrapper's prefix.
        optimizer: over its parameters.
        ema_decay: of the average.
        latents: fingerprint of how the latents were made, which a checkpoint is bound to.
        images: fingerprint of the images that they are of, which it is bound to as well.
        scaling_factor: that they are multiplied by, which it is bound to as well; None if by nothing.
    """

    def __init__(
        self,
        network: N,
        optimizer: torch.optim.Optimizer,
        *,
        ema_decay: float,
        latents: str,
        images: str,
        scaling_factor: float | None,
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self._latents, self._images, self._scaling_factor = latents, images, scaling_factor
        self.step = 0
        self._ema = EMAModel(network.parameters(), ema_decay, foreach=True)

    def average(self) -> None:
        """Move the averaged weights towards the present ones; once per update made."""
        self._ema.step(self.network.parameters())

    def averaged_network(self) -> N:
        """A copy with the averaged weights, in evaluation mode."""
        network: N = type(self.network).from_config(dict(self.network.config)).to(self.network.device)
        network.load_state_dict(self.network.state_dict())
        self._ema.copy_to(network.parameters())
        network.eval()
        return network

    def checkpoint(self, accelerator: Accelerator, config_yaml: str) -> Checkpoint:
        """The present state, on the CPU."""
        own = self._own()
        return Checkpoint(
            step=self.step,
            tensors={
                "weights": {name: on_cpu(tensor) for name, tensor in own.items()},
                "ema": {name: on_cpu(tensor) for name, tensor in self._averages().items()},
                "optimizer": optimizer_tensors(own, self.optimizer),
            },
            values={
                LATENTS: self._latents,
                IMAGES: self._images,
                SCALING: self._scaling_factor,
                "ema_updates": self._ema.optimization_step,
                "gradient_scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                "versions": {"latent_ae": __version__, "torch": torch.__version__, "diffusers": diffusers_version},
            },
            config_yaml=config_yaml,
        )

    def restore(self, checkpoint: Checkpoint, accelerator: Accelerator) -> None:
        """Become the state that was saved, to the last bit.

        Raises CheckpointError if it is of other latents, of other images, or of latents times another number.
        """
        saved, values = checkpoint.tensors, checkpoint.values
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
        load_tensors(self._own(), saved["weights"])
        load_tensors(self._averages(), saved["ema"])
        load_optimizer(self._own(), self.optimizer, saved["optimizer"])
        self._ema.optimization_step = values["ema_updates"]
        if accelerator.scaler is not None and values["gradient_scaler"] is not None:
            accelerator.scaler.load_state_dict(values["gradient_scaler"])
        self.step = checkpoint.step

    def _own(self) -> dict[str, Tensor]:
        return dict(self.network.named_parameters())

    def _averages(self) -> dict[str, Tensor]:
        return dict(zip(self._own(), self._ema.shadow_params, strict=True))
