"""Everything of a run that changes with the steps, in one place: what a checkpoint holds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers import __version__ as diffusers_version
from torch import Tensor

from latent_ae._version import __version__
from latent_ae.models.autoencoder import Autoencoder, class_name
from latent_ae.models.bottlenecks.quantizer import stock_codebook
from latent_ae.models.parts import ENCODER_SIDE, encoder_identity
from latent_ae.models.run_folders import AUTOENCODER
from latent_ae.training.best import BestWeights
from latent_ae.training.checkpoint.files import Checkpoint, CheckpointError
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.objective import Objective
from latent_ae.training.update import GradientGuard

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

N = TypeVar("N", bound=ModelMixin)


class Side(NamedTuple):
    """What one optimizer trains."""

    file: str
    """of a checkpoint, with the weights"""
    optimizer_file: str
    tensors: dict[str, Tensor]
    """all that changes with the steps, by name; the living ones"""
    optimizer: torch.optim.Optimizer


def _moving_average(network: ModelMixin, decay: float) -> "EMAModel":
    # With it come diffusers' pipelines and torchvision: seconds for which help does not wait.
    from diffusers.training_utils import EMAModel  # noqa: PLC0415

    return EMAModel(network.parameters(), decay, foreach=True)


class ModelState(Generic[N]):
    """The weights of a network, their average and the optimizer: what any training changes.

    Args:
        network: as built, not as prepared: its names carry no wrapper's prefix.
        optimizer: over what learns.
        ema_decay: decay of the averaged weights; None keeps no average.
        best: what keeps the best weights, if the run does.
    """

    def __init__(
        self,
        network: N,
        optimizer: torch.optim.Optimizer,
        ema_decay: float | None,
        best: BestWeights | None = None,
    ) -> None:
        self.network, self.optimizer, self.best = network, optimizer, best
        self.step = 0
        self.ema = None if ema_decay is None else _moving_average(network, ema_decay)

    def average(self) -> None:
        """Move the averaged weights towards the present ones; once per update made."""
        if self.ema is not None:
            self.ema.step(self.network.parameters())

    def averaged(self) -> N:
        """A copy of the network with the averaged weights (or the present ones if none are kept), in eval mode."""
        return self._copy({} if self.ema is None else self._averages(self.ema))

    def result(self) -> N:
        """As `averaged`, or with the best weights where the run keeps them."""
        return self.averaged() if self.best is None else self._copy(self.best.tensors)

    @property
    def over(self) -> bool:
        """Whether more updates are not wanted."""
        return self.best is not None and self.best.over

    def validated(self, value: float | None, reason: str | None) -> None:
        """Compare the averaged weights, by a held-out value or the reason why there is none, with the best."""

        def weights() -> dict[str, Tensor]:
            now = dict(self.network.named_parameters()) if self.ema is None else self._averages(self.ema)
            return {name: _on_cpu(tensor) for name, tensor in now.items()}

        if self.best is not None:
            self.best.add(self.step, value, reason, weights)

    def _copy(self, weights: Mapping[str, Tensor]) -> N:
        """A copy of the network in eval mode, with other weights by name."""
        copy: N = self.untrained().to(self.network.device)
        copy.load_state_dict({**self.network.state_dict(), **weights})
        copy.eval()
        return copy

    def untrained(self) -> N:
        """Another network of the same config, whose weights are anything."""
        network: N = type(self.network).from_config(self.network_config())
        return network

    def network_config(self) -> dict[str, Any]:
        """The network's, without the path that it was loaded from and what diffusers notes for itself."""
        return {key: value for key, value in self.network.config.items() if not key.startswith("_")}

    def sides(self) -> list[Side]:
        """All that optimizers train."""
        return [Side("weights", "optimizer", dict(self.network.named_parameters()), self.optimizer)]

    def others(self) -> dict[str, object]:
        """JSON values that a checkpoint has besides."""
        return {}

    def restore_others(self, values: Mapping[str, Any]) -> None:
        """Take back what `others` gave. Raises CheckpointError for what does not go with this run."""

    def checkpoint(
        self, accelerator: Accelerator, config_yaml: str, place: Mapping[str, object] | None = None
    ) -> Checkpoint:
        """The present state, on the CPU, with the `place` of the data loader (JSON) if it has one."""
        tensors: dict[str, dict[str, Tensor]] = {}
        for side in self.sides():
            tensors[side.file] = {name: _on_cpu(tensor) for name, tensor in side.tensors.items()}
            tensors[side.optimizer_file] = _optimizer_tensors(side.tensors, side.optimizer)
        if self.ema is not None:
            tensors["ema"] = {name: _on_cpu(shadow) for name, shadow in self._averages(self.ema).items()}
        if self.best is not None and self.best.tensors:
            tensors["best"] = self.best.tensors
        return Checkpoint(
            step=self.step,
            tensors=tensors,
            values={
                "ema_updates": None if self.ema is None else self.ema.optimization_step,
                "gradient_scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                **({} if self.best is None else {"best": self.best.state()}),
                **(place or {}),
                **self.others(),
                "versions": {"latent_ae": __version__, "torch": torch.__version__, "diffusers": diffusers_version},
            },
            config_yaml=config_yaml,
        )

    def restore(self, checkpoint: Checkpoint, accelerator: Accelerator) -> None:
        """Become the state that was saved, to the last bit. Raises CheckpointError if it is of another model."""
        saved, values = checkpoint.tensors, checkpoint.values
        self.restore_others(values)
        try:
            for side in self.sides():
                _load_tensors(side.tensors, saved[side.file])
                _load_optimizer(side.tensors, side.optimizer, saved[side.optimizer_file])
            if self.ema is not None:
                _load_tensors(self._averages(self.ema), saved["ema"])
                self.ema.optimization_step = values["ema_updates"]
            if self.best is not None:
                self.best.restore(values["best"], saved.get("best", {}))
        except KeyError as error:
            raise CheckpointError(f"the checkpoint belongs to another model: it lacks {error.args[0]}") from None
        if accelerator.scaler is not None and values["gradient_scaler"] is not None:
            accelerator.scaler.load_state_dict(values["gradient_scaler"])
        self.step = checkpoint.step

    def _averages(self, ema: "EMAModel") -> dict[str, Tensor]:
        names = [name for name, _ in self.network.named_parameters()]
        return dict(zip(names, ema.shadow_params, strict=True))


class AutoencoderState(ModelState[Autoencoder]):
    """An autoencoder's, with its losses and bottleneck, and the discriminator's side.

    Args:
        objective: the module as built, not as prepared.
        optimizer: the optimizer over its trainable parameters.
        ema_decay: decay of the averaged autoencoder; None keeps no average.
        adversary: the discriminator's side, if the run has one.
        guards: of "generator" and "discriminator"; without them any gradient norm that is not finite ends the run.
        best: what keeps the best weights, if the run does.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        ema_decay: float | None,
        adversary: Adversary | None = None,
        *,
        guards: dict[str, GradientGuard] | None = None,
        best: BestWeights | None = None,
    ) -> None:
        super().__init__(objective.model.autoencoder, optimizer, ema_decay, best)
        self.objective, self.adversary = objective, adversary
        self.guards = guards or {"generator": GradientGuard(), "discriminator": GradientGuard()}

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards the present ones; once per update made.

        A code that was just revived has no past where it is now: its average begins there, and its moments at 0.
        """
        super().average()
        if (moved := self.objective.model.bottleneck.moved) is None:
            return
        codes = stock_codebook(self.network).weight
        for name, moments in self.optimizer.state.get(codes, {}).items():
            if name.startswith("exp_avg"):
                moments[moved] = 0.0
        if self.ema is not None:
            place = next(i for i, parameter in enumerate(self.network.parameters()) if parameter is codes)
            self.ema.shadow_params[place][moved] = codes[moved]

    def _copy(self, weights: Mapping[str, Tensor]) -> Autoencoder:
        """As `ModelState._copy`; a model that stock diffusers loads, as the bottleneck has it compute."""
        copy = super()._copy(weights)
        modules = {name.split(".")[0] for name, _ in self.network.named_parameters()}
        if not set(ENCODER_SIDE) & modules <= self.objective.frozen:
            self.objective.model.bottleneck.fold(copy)
        return copy

    def sides(self) -> list[Side]:
        """Autoencoder and losses, with what the bottleneck keeps besides its codebook; the discriminator's side."""
        objective, adversary = self.objective, self.adversary
        own = {
            **{f"autoencoder.{name}": tensor for name, tensor in self.network.named_parameters()},
            **{f"reconstruction.{name}": tensor for name, tensor in objective.reconstruction.named_parameters()},
            **{f"bottleneck.{name}": tensor for name, tensor in objective.model.bottleneck.named_buffers()},
        }
        sides = [Side("weights", "optimizer", own, self.optimizer)]
        if adversary is not None:
            files = ("discriminator", "discriminator_optimizer")
            sides.append(Side(*files, adversary.tensors(), adversary.optimizer))
        return sides

    def others(self) -> dict[str, object]:
        """The discriminator's loss scale, skipped updates, and which encoder it is."""
        return {
            "discriminator_scaler": None if self.adversary is None else self.adversary.scaler.state_dict(),
            "skips": {side: guard.state() for side, guard in self.guards.items()},
            "encoder_identity": encoder_identity(self.network),
            AUTOENCODER: {"_class_name": class_name(self.network), **self.network_config()},
        }

    def restore_others(self, values: Mapping[str, Any]) -> None:
        """The discriminator's loss scale, and the guards' counts."""
        if self.adversary is not None and values["discriminator_scaler"]:
            self.adversary.scaler.load_state_dict(values["discriminator_scaler"])
        for side, guard in self.guards.items():
            guard.restore(values["skips"][side])


def _optimizer_tensors(owners: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer keeps of each of the named parameters, as NAME|KEY, on the CPU."""
    return {
        f"{name}|{key}": _on_cpu(value)
        for name, tensor in owners.items()
        if tensor in optimizer.state
        for key, value in optimizer.state[tensor].items()
    }


def _load_optimizer(owners: dict[str, Tensor], optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Give it back to the optimizer, each in the memory layout of its parameter."""
    for name, tensor in owners.items():
        state = {
            key: _optimizer_value(saved[f"{name}|{key}"], tensor)
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{name}|{key}" in saved
        }
        if state:
            optimizer.state[tensor] = state


def _optimizer_value(saved: Tensor, parameter: Tensor) -> Tensor:
    if saved.dim() == 0 and parameter.dim() != 0:
        return saved.to(parameter.device)
    # Fused AdamW walks parameter and moments by address: a moment in another memory layout than its parameter
    # (channels last) would silently be applied to the wrong weights. A file holds no layout, so copy into one.
    return torch.empty_like(parameter, requires_grad=False).copy_(saved)


def _on_cpu(tensor: Tensor) -> Tensor:
    """A copy without graph that later updates do not change."""
    return tensor.detach().to("cpu", copy=True)


def _load_tensors(targets: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Copy into the named tensors. Raises CheckpointError if a shape differs, KeyError if one is missing."""
    for name, target in targets.items():
        if saved[name].shape != target.shape:
            raise CheckpointError(
                f"the checkpoint belongs to another model: {name} is {tuple(saved[name].shape)} there "
                f"and {tuple(target.shape)} here"
            )
        target.data.copy_(saved[name])
