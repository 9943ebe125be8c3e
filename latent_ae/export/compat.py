"""Which programs can use a model as it is, why others cannot, and what is wrong in silence where one can."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from latent_ae.export.facts import CLASSES, Facts
from latent_ae.export.loaders import LOADERS, Loader
from latent_ae.export.network import Fault
from latent_ae.models import Autoencoder


@dataclass(frozen=True)
class Verdict:
    """Whether one loader of a program takes a model."""

    consumer: str
    works: bool
    reasons: tuple[str, ...]
    """why not; none where it works"""
    silent: bool
    """whether it does not work, and the loader says nothing: it loads, and latents or images are others"""
    warnings: tuple[str, ...]
    """what is to be known where it works"""
    note: str
    """how, where it works"""
    seen: str
    """the version that this is about, and whether it was run there or read"""


def compat(model: Autoencoder) -> list[Verdict]:
    """A verdict for every loader, in the order of LOADERS; of the model, only its config counts."""
    facts = Facts.of(model)
    return [_judged(name, loader, facts) for name, loader in LOADERS.items()]


def verdict(model: Autoencoder, consumer: str) -> Verdict:
    """That for one of LOADERS."""
    return _judged(consumer, LOADERS[consumer], Facts.of(model))


def _judged(name: str, loader: Loader, facts: Facts) -> Verdict:
    faults = list(_faults(loader, facts))
    works = not faults
    return Verdict(
        consumer=name,
        works=works,
        reasons=tuple(fault.reason for fault in faults),
        silent=not works and all(fault.silent for fault in faults),
        warnings=(*(text for rule in loader.warns if (text := rule(facts))), *_scaling(loader, facts)) if works else (),
        note=loader.use if works else "",
        seen=loader.seen,
    )


def _faults(loader: Loader, facts: Facts) -> Iterator[Fault]:
    if wrong := [Fault(reason) for rule in loader.rules if rule in CLASSES and (reason := rule(facts))]:
        yield from wrong
        return
    yield from (Fault(reason) for rule in loader.rules if (reason := rule(facts)))
    yield from (Fault(reason, silent=True) for rule in loader.unchecked if (reason := rule(facts)))
    if loader.network is not None:
        yield from loader.network.faults(facts)


def _scaling(loader: Loader, facts: Facts) -> list[str]:
    """What a loader does to latents that the config does not say."""
    own, shift = facts.scaling, facts.shift or 0.0
    if loader.scales is None or own is None:
        ignored = loader.ignores_shift and shift
        return [f"it ignores shift_factor {shift:.3g}, so it must be ignored in training too"] if ignored else []
    scales = [each for each in loader.scales if each.channels == facts.latent_channels]
    if not scales or any(
        math.isclose(own, each.factor, rel_tol=1e-3) and abs(shift - each.shift) < 1e-4 for each in scales
    ):
        return []
    return [f"it scales latents by {' or '.join(map(str, scales))}, not by the config's {own:.4g}, shift {shift:.3g}"]
