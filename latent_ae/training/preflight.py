"""Preflight: before the first step, every weighted loss term must reach the modules it is meant to train, and no other.

Trainers have shipped with a perceptual loss computed under `no_grad`: logged, weighted, and without effect. Here a
tiny batch goes through the objective once, each term's gradient is taken by itself, and a run whose table is wrong
does not start.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latent_ae.errors import UserError
from latent_ae.models.bottlenecks import Bottleneck
from latent_ae.models.parts import DECODER_SIDE, ENCODER_SIDE
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.objective import Objective, Weights


class PreflightError(UserError):
    """A loss term without gradient where it should have one, or with one where it should not."""


@dataclass(frozen=True)
class PreflightTable:
    """Gradient norms by term and module."""

    norms: dict[str, dict[str, float]]
    trains: dict[str, frozenset[str]]
    """the modules that each term is meant to train, of those a model has"""

    def violations(self) -> list[str]:
        """Each wrong entry, in words; empty if all is well."""
        found = []
        for term, row in self.norms.items():
            if term not in self.trains:
                found.append(f"the {term} term is missing in preflight.meant_to_train: add the modules that it trains")
                continue
            if not self.trains[term] & row.keys():
                found.append(f"the {term} term trains nothing, as all it reaches is frozen: give it the weight 0")
            for module, norm in row.items():
                meant = module in self.trains[term]
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


def preflight(
    objective: Objective, pixels: Tensor, noise: Tensor, weights: Weights, adversary: Adversary | None = None
) -> PreflightTable:
    """Take each weighted term's gradient by itself on a batch of pixels [B,C,H,W] and the bottleneck's noise [B,...].

    Leaves no gradient behind. Raises PreflightError naming the term and module of every violation.
    """
    modules = dict(trained_modules(objective, adversary))
    with torch.enable_grad(), _in_full_force(objective.model.bottleneck, adversary):
        terms = objective(pixels, noise, capacity=weights.capacity)
        if unweighted := terms.losses.keys() - weights.terms.keys() - {"reconstruction"}:
            raise PreflightError(
                f"preflight: no weight for {', '.join(sorted(unweighted))}: add it in build.weights_at"
            )
        losses = {name: value for name, value in terms.losses.items() if weights.of(name) != 0.0}
        if adversary is not None:
            losses["adversarial"] = adversary.generator_term(terms.reconstruction)
            sides = _of_discriminator(adversary, terms.target, terms.reconstruction.detach())
            losses |= {name: value for name, value in sides.items() if adversary.weights[name] != 0.0}
        norms = {term: _norms(value, modules) for term, value in losses.items()}
    table = PreflightTable(norms, meant_to_train(objective.model.bottleneck))
    if violations := table.violations():
        raise PreflightError("preflight: " + "; ".join(violations))
    return table


def meant_to_train(bottleneck: Bottleneck) -> dict[str, frozenset[str]]:
    """The modules that each term is meant to train, of those a model has and does not freeze."""
    through_decoder = bottleneck.reconstruction_trains
    discriminator = dict.fromkeys(("discriminator", "lecam", "r1"), frozenset({"discriminator"}))
    return {
        "reconstruction": through_decoder | {"reconstruction"},
        "perceptual": through_decoder,
        "adversarial": through_decoder,
        **discriminator,
        **bottleneck.trains,
    }


def trained_modules(
    objective: Objective, adversary: Adversary | None = None
) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The modules with parameters that learn, or that some term is meant to train, by the names the table uses."""
    bottleneck = objective.model.bottleneck
    meant = frozenset().union(bottleneck.reconstruction_trains, *bottleneck.trains.values())
    autoencoder = objective.model.autoencoder
    candidates: dict[str, nn.Module | None] = {
        name: getattr(autoencoder, name, None) for name in (*ENCODER_SIDE, *DECODER_SIDE)
    }
    candidates |= {"reconstruction": objective.reconstruction, "perceptual network": objective.perceptual}
    candidates["discriminator"] = None if adversary is None else adversary.module
    for name, module in candidates.items():
        learned = [] if module is None else [p for p in module.parameters() if p.requires_grad]
        expected = module is not None and name in meant and name not in objective.frozen
        if learned or expected:
            yield name, learned


def _of_discriminator(adversary: Adversary, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Its terms on a pair of batches [B,C,H,W], and half of those on the pair turned round.

    A discriminator that has learnt elsewhere may be sure of the pair, where the hinge is flat: of it turned round it
    is as sure, and wrong. The other half would cancel the gradient of a fresh one.
    """
    penalise = adversary.weights["r1"] > 0
    asked, turned = (adversary.module(*pair, penalise).losses for pair in ((real, fake), (fake, real)))
    return {name: value + 0.5 * turned[name] for name, value in asked.items()}


@contextmanager
def _in_full_force(bottleneck: Bottleneck, adversary: Adversary | None) -> Iterator[None]:
    """Lift what rightly keeps a term at 0 in a fresh run: the bottleneck's floor, and LeCAM's want of averages."""
    lecam = None if adversary is None else adversary.module.lecam
    state = None if lecam is None else {name: value.clone() for name, value in lecam.state_dict().items()}
    if lecam is not None:
        lecam.after_update(1.0, -1.0)
    try:
        with bottleneck.in_full_force():
            yield
    finally:
        if lecam is not None and state is not None:
            lecam.load_state_dict(state)


def _norms(value: Tensor, modules: dict[str, list[nn.Parameter]]) -> dict[str, float]:
    """Norm of a term's gradient in each module."""
    parameters = [parameter for group in modules.values() for parameter in group]
    found: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if value.requires_grad:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    gradients = dict(zip(parameters, found, strict=True))
    return {name: _norm([gradients[parameter] for parameter in group]) for name, group in modules.items()}


def _norm(gradients: list[Tensor | None]) -> float:
    present = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(present).sum().sqrt()) if present else 0.0


def _cell(norm: float) -> str:
    return "-" if norm == 0.0 else f"{norm:.2e}"
