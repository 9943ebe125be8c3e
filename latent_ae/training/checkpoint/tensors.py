"""Weights and an optimizer's moments by name, as a checkpoint holds them."""

import torch
from torch import Tensor

from latent_ae.training.checkpoint.files import CheckpointError


def optimizer_tensors(owners: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer keeps of each of the named parameters, as NAME|KEY, on the CPU."""
    return {
        f"{name}|{key}": on_cpu(value)
        for name, tensor in owners.items()
        if tensor in optimizer.state
        for key, value in optimizer.state[tensor].items()
    }


def load_optimizer(owners: dict[str, Tensor], optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
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


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy without graph that later updates do not change."""
    return tensor.detach().to("cpu", copy=True)


def load_tensors(targets: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Copy into the named tensors. Raises CheckpointError if a shape differs, KeyError if one is missing."""
    for name, target in targets.items():
        if saved[name].shape != target.shape:
            raise CheckpointError(
                f"the checkpoint belongs to another model: {name} is {tuple(saved[name].shape)} there "
                f"and {tuple(target.shape)} here"
            )
        target.data.copy_(saved[name])
