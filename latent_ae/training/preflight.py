"""Preflight: before the first step, every weighted loss term must reach the modules it is meant to train, and no other.

Trainers have shipped with a perceptual loss computed under `no_grad`: logged, weighted, and without effect. Here a
tiny batch goes through the objective once, each term's gradient is taken by itself, and a run whose table is wrong
does not start.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latent_ae.errors import UserError
from latent_ae.training.objective import Objective, Weights

ENCODER_SIDE = frozenset({"encoder", "quant_conv"})
DECODER_SIDE = frozenset({"post_quant_conv", "decoder"})

TRAINS: dict[str, frozenset[str]] = {
    "reconstruction": ENCODER_SIDE | DECODER_SIDE | {"reconstruction"},
    "perceptual": ENCODER_SIDE | DECODER_SIDE,
    "kl": ENCODER_SIDE,
}
"""the modules each term is meant to train, of those a model has"""


class PreflightError(UserError):
    """A loss term without gradient where it should have one, or with one where it should not."""


@dataclass(frozen=True)
class PreflightTable:
    """Gradient norms by term and module."""

    norms: dict[str, dict[str, float]]

    def violations(self) -> list[str]:
        """Each wrong entry, in words; empty if all is well."""
        found = []
        for term, row in self.norms.items():
            for module, norm in row.items():
                meant = module in TRAINS[term]
                if not math.isfinite(norm):
                    found.append(f"the {term} term has a non-finite gradient in {module}")
                elif meant and norm == 0.0:
                    found.append(f"the {term} term has no gradient in {module}, which it is meant to train")
                elif not meant and norm != 0.0:
                    found.append(f"the {term} term has a gradient in {module}, which it is not meant to train")
        return found

    def __str__(self) -> str:
        modules = list(next(iter(self.norms.values())))
        width = max(len(name) for name in (*modules, "0.00e+00")) + 2
        lines = [f"{'gradient norm':<16}" + "".join(f"{module:>{width}}" for module in modules)]
        for term, row in self.norms.items():
            lines.append(f"{term:<16}" + "".join(f"{_cell(norm):>{width}}" for norm in row.values()))
        return "\n".join(lines)


def preflight(objective: Objective, pixels: Tensor, noise: Tensor, weights: Weights) -> PreflightTable:
    """Take each weighted term's gradient by itself on a batch of pixels [B,C,H,W] and noise [B,c,h,w].

    The free-bits floor is lifted for it: a fresh model's KL may rightly lie below the floor and cost nothing yet.
    Leaves no gradient behind. Raises PreflightError naming term and module of every violation.
    """
    modules = dict(trained_modules(objective))
    parameters = [parameter for group in modules.values() for parameter in group]
    bottleneck: Any = objective.model.bottleneck
    free_bits, bottleneck.free_bits = bottleneck.free_bits, 0.0
    try:
        with torch.enable_grad():
            losses = objective(pixels, noise, weights.capacity).losses
    finally:
        bottleneck.free_bits = free_bits
    norms = {}
    for term, value in losses.items():
        if weights.of(term) == 0.0:
            continue
        found: tuple[Tensor | None, ...] = (None,) * len(parameters)
        if value.requires_grad:
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        gradients = dict(zip(parameters, found, strict=True))
        norms[term] = {name: _norm([gradients[p] for p in group]) for name, group in modules.items()}
    table = PreflightTable(norms)
    if violations := table.violations():
        raise PreflightError("preflight: " + "; ".join(violations))
    return table


def trained_modules(objective: Objective) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The modules with parameters that learn, by the names the table uses."""
    autoencoder = objective.model.autoencoder
    for name in ("encoder", "quant_conv", "post_quant_conv", "decoder"):
        if (module := getattr(autoencoder, name)) is not None:
            yield name, [parameter for parameter in module.parameters() if parameter.requires_grad]
    if learned := list(objective.reconstruction.parameters()):
        yield "reconstruction", learned
    if objective.perceptual is not None and (
        thawed := [parameter for parameter in objective.perceptual.parameters() if parameter.requires_grad]
    ):
        yield "perceptual network", thawed


def _norm(gradients: list[Tensor | None]) -> float:
    present = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(present).sum().sqrt()) if present else 0.0


def _cell(norm: float) -> str:
    return "-" if norm == 0.0 else f"{norm:.2e}"
