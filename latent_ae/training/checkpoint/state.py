"""Everything of a run that changes with the steps, in one place: what a checkpoint holds."""

from typing import Any

import torch
from accelerate import Accelerator
from diffusers import __version__ as diffusers_version
from diffusers.training_utils import EMAModel
from torch import Tensor

from latent_ae._version import __version__
from latent_ae.models.autoencoder import Autoencoder, class_name
from latent_ae.models.bottlenecks.quantizer import stock_codebook
from latent_ae.models.parts import ENCODER_SIDE, encoder_identity
from latent_ae.models.run_folders import AUTOENCODER
from latent_ae.training.checkpoint.files import IMAGES, Checkpoint, CheckpointError
from latent_ae.training.checkpoint.tensors import load_optimizer, load_tensors, on_cpu, optimizer_tensors
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.objective import Objective
from latent_ae.training.skip_guard import GradientGuard


class TrainingState:
    """Weights, their average, optimizers and gradient scalers, with their names.

    Args:
        objective: the module as built, not as prepared: its names carry no wrapper's prefix.
        optimizer: the optimizer over its trainable parameters.
        ema_decay: decay of the averaged autoencoder; None keeps no average.
        adversary: the discriminator's side, if the run has one.
        guards: of "generator" and "discriminator"; without them any gradient norm that is not finite ends the run.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        ema_decay: float | None,
        adversary: Adversary | None = None,
        guards: dict[str, GradientGuard] | None = None,
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.adversary = adversary
        self.guards = guards or {"generator": GradientGuard(), "discriminator": GradientGuard()}
        self.step = 0
        self.autoencoder: Autoencoder = objective.model.autoencoder
        self.ema = None if ema_decay is None else EMAModel(self.autoencoder.parameters(), ema_decay, foreach=True)

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards the present ones; once per update made.

        A code that was just revived has no past where it is now: its average begins there, and its moments at 0.
        """
        if self.ema is not None:
            self.ema.step(self.autoencoder.parameters())
        if (moved := self.objective.model.bottleneck.moved) is None:
            return
        codes = stock_codebook(self.autoencoder).weight
        for name, moments in self.optimizer.state.get(codes, {}).items():
            if name.startswith("exp_avg"):
                moments[moved] = 0.0
        if self.ema is not None:
            place = next(i for i, parameter in enumerate(self.autoencoder.parameters()) if parameter is codes)
            self.ema.shadow_params[place][moved] = codes[moved]

    def averaged_autoencoder(self) -> Autoencoder:
        """A copy of the autoencoder with the averaged weights (or the present ones if none are kept), in eval mode."""
        copy = type(self.autoencoder).from_config(self._config()).to(self.autoencoder.device)
        copy.load_state_dict(self.autoencoder.state_dict())
        if self.ema is not None:
            self.ema.copy_to(copy.parameters())
        if not set(ENCODER_SIDE) & self._modules() <= self.objective.frozen:
            self.objective.model.bottleneck.fold(copy)
        return copy.eval()

    def checkpoint(
        self, accelerator: Accelerator, config_yaml: str, data: object = None, images: object = None
    ) -> Checkpoint:
        """The present state, on the CPU.

        `data` is the position of the data loader, if it has one, and `images` the fingerprint of its images (JSON).
        """
        tensors = {
            "weights": {name: on_cpu(tensor) for name, tensor in self._own().items()},
            "optimizer": optimizer_tensors(self._own(), self.optimizer),
        }
        if self.ema is not None:
            names = [name for name, _ in self.autoencoder.named_parameters()]
            tensors["ema"] = {name: on_cpu(shadow) for name, shadow in zip(names, self.ema.shadow_params, strict=True)}
        if self.adversary is not None:
            own = self.adversary.tensors()
            tensors["discriminator"] = {name: on_cpu(tensor) for name, tensor in own.items()}
            tensors["discriminator_optimizer"] = optimizer_tensors(own, self.adversary.optimizer)
        return Checkpoint(
            step=self.step,
            tensors=tensors,
            values={
                "ema_updates": None if self.ema is None else self.ema.optimization_step,
                "gradient_scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                "discriminator_scaler": None if self.adversary is None else self.adversary.scaler.state_dict(),
                "skips": {side: guard.state() for side, guard in self.guards.items()},
                "data": data,
                IMAGES: images,
                "encoder_identity": encoder_identity(self.autoencoder),
                AUTOENCODER: {"_class_name": class_name(self.autoencoder), **self._config()},
                "versions": {"latent_ae": __version__, "torch": torch.__version__, "diffusers": diffusers_version},
            },
            config_yaml=config_yaml,
        )

    def restore(self, checkpoint: Checkpoint, accelerator: Accelerator) -> None:
        """Become the state that was saved, to the last bit. Raises CheckpointError if the shapes differ."""
        saved, values = checkpoint.tensors, checkpoint.values
        try:
            load_tensors(self._own(), saved["weights"])
            load_optimizer(self._own(), self.optimizer, saved["optimizer"])
            if self.ema is not None:
                names = [name for name, _ in self.autoencoder.named_parameters()]
                load_tensors(dict(zip(names, self.ema.shadow_params, strict=True)), saved["ema"])
                self.ema.optimization_step = values["ema_updates"]
            if self.adversary is not None:
                own = self.adversary.tensors()
                load_tensors(own, saved["discriminator"])
                load_optimizer(own, self.adversary.optimizer, saved["discriminator_optimizer"])
        except KeyError as error:
            raise CheckpointError(f"the checkpoint belongs to another model: it lacks {error.args[0]}") from None
        if accelerator.scaler is not None and values["gradient_scaler"] is not None:
            accelerator.scaler.load_state_dict(values["gradient_scaler"])
        scaler, skips = values["discriminator_scaler"], values["skips"]
        if self.adversary is not None and isinstance(scaler, dict) and scaler:
            self.adversary.scaler.load_state_dict(scaler)
        assert isinstance(skips, dict)
        for side, guard in self.guards.items():
            guard.restore(skips[side])
        self.step = checkpoint.step

    def _config(self) -> dict[str, Any]:
        """The autoencoder's, without the path that it was loaded from and what diffusers notes for itself."""
        return {key: value for key, value in self.autoencoder.config.items() if not key.startswith("_")}

    def _modules(self) -> set[str]:
        return {name.split(".")[0] for name, _ in self.autoencoder.named_parameters()}

    def _own(self) -> dict[str, Tensor]:
        """Parameters of the autoencoder and the losses, and what the bottleneck keeps besides its codebook."""
        objective = self.objective
        return {
            **{f"autoencoder.{name}": tensor for name, tensor in self.autoencoder.named_parameters()},
            **{f"reconstruction.{name}": tensor for name, tensor in objective.reconstruction.named_parameters()},
            **{f"bottleneck.{name}": tensor for name, tensor in objective.model.bottleneck.named_buffers()},
        }
