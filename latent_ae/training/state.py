"""Everything of a run that changes with the steps, in one place: what a checkpoint holds."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers import __version__ as diffusers_version
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from latent_ae._version import __version__
from latent_ae.models.identity import encoder_identity
from latent_ae.training.checkpoints import Checkpoint, CheckpointError
from latent_ae.training.objective import Objective


class TrainingState:
    """Weights, their average, optimizer and gradient scaler, with their names.

    Args:
        objective: the module as built, not as prepared: its names carry no wrapper's prefix.
        optimizer: the optimizer over its trainable parameters.
        ema_decay: decay of the averaged autoencoder; None keeps no average.
    """

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer, ema_decay: float | None) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.step = 0
        self.autoencoder: AutoencoderKL = objective.model.autoencoder
        self.ema = None if ema_decay is None else EMAModel(self.autoencoder.parameters(), ema_decay, foreach=True)

    def average(self) -> None:
        """Move the averaged weights towards the present ones; once per update made."""
        if self.ema is not None:
            self.ema.step(self.autoencoder.parameters())

    def averaged_autoencoder(self) -> AutoencoderKL:
        """A copy of the autoencoder with the averaged weights (or the present ones if none are kept), in eval mode."""
        copy = AutoencoderKL.from_config(dict(self.autoencoder.config)).to(self.autoencoder.device)
        copy.load_state_dict(self.autoencoder.state_dict())
        if self.ema is not None:
            self.ema.copy_to(copy.parameters())
        return copy.eval()

    def checkpoint(self, accelerator: Accelerator, config_yaml: str) -> Checkpoint:
        """The present state, on the CPU."""
        tensors = {"weights": {name: _saved(parameter) for name, parameter in self._trained()}}
        if self.ema is not None:
            names = [name for name, _ in self.autoencoder.named_parameters()]
            tensors["ema"] = {name: _saved(shadow) for name, shadow in zip(names, self.ema.shadow_params, strict=True)}
        tensors["optimizer"] = {
            f"{name}|{key}": _saved(value)
            for name, parameter in self._trained()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return Checkpoint(
            step=self.step,
            tensors=tensors,
            values={
                "ema_updates": None if self.ema is None else self.ema.optimization_step,
                "gradient_scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                "encoder_identity": encoder_identity(self.autoencoder),
                "versions": {"latent_ae": __version__, "torch": torch.__version__, "diffusers": diffusers_version},
            },
            config_yaml=config_yaml,
        )

    def restore(self, checkpoint: Checkpoint, accelerator: Accelerator) -> None:
        """Become the state that was saved, to the last bit. Raises CheckpointError if the shapes differ."""
        try:
            _load(dict(self._trained()), checkpoint.tensors["weights"])
            if self.ema is not None:
                names = [name for name, _ in self.autoencoder.named_parameters()]
                _load(dict(zip(names, self.ema.shadow_params, strict=True)), checkpoint.tensors["ema"])
        except KeyError as error:
            raise CheckpointError(f"the checkpoint belongs to another model: it lacks {error.args[0]}") from None
        for name, parameter in self._trained():
            self.optimizer.state[parameter] = {
                key: self._optimizer_value(checkpoint.tensors["optimizer"][f"{name}|{key}"], parameter)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}|{key}" in checkpoint.tensors["optimizer"]
            }
        if self.ema is not None:
            self.ema.optimization_step = checkpoint.values["ema_updates"]
        if accelerator.scaler is not None and checkpoint.values["gradient_scaler"] is not None:
            accelerator.scaler.load_state_dict(checkpoint.values["gradient_scaler"])
        self.step = checkpoint.step

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.autoencoder.named_parameters():
            yield f"autoencoder.{name}", parameter
        for name, parameter in self.objective.reconstruction.named_parameters():
            yield f"reconstruction.{name}", parameter

    @staticmethod
    def _optimizer_value(saved: Tensor, parameter: nn.Parameter) -> Tensor:
        if saved.dim() == 0 and parameter.dim() != 0:
            return saved.to(parameter.device)
        # Fused AdamW walks parameter and moments by address: a moment in another memory layout than its parameter
        # (channels last) would silently be applied to the wrong weights. A file holds no layout, so copy into one.
        return torch.empty_like(parameter, requires_grad=False).copy_(saved)


def _saved(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _load(targets: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    for name, target in targets.items():
        if saved[name].shape != target.shape:
            raise CheckpointError(
                f"the checkpoint belongs to another model: {name} is {tuple(saved[name].shape)} there "
                f"and {tuple(target.shape)} here"
            )
        target.data.copy_(saved[name])
