"""Which loaders of other programs can use a model, why others cannot, and which give wrong results without an error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from latent_ae.export import rules
from latent_ae.export.rules import CLASSES, Facts, Rule

if TYPE_CHECKING:
    from latent_ae.models import Autoencoder


class Fault(NamedTuple):
    """Why a model does not work."""

    reason: str
    silent: bool = False
    """whether the loader reports no error, and latents or images are wrong"""


@dataclass(frozen=True)
class Network:
    """The autoencoder that a loader builds before it reads a file: Stable Diffusion's, with 2 layers per level, 32
    groups and RGB images.
    """

    widths: tuple[tuple[int, ...], ...] = (rules.STABLE_DIFFUSION,)
    latent_channels: tuple[int, ...] | None = None
    """None: as many as the file has"""
    quant_convs: Literal["both", "none", "as in the file"] = "as in the file"
    names: Literal["strict", "drops", "fills"] = "strict"
    """How it treats unexpected and missing tensors. strict: both are errors. drops: ignores unexpected ones, fails for
    missing ones. fills: ignores unexpected ones, leaves missing ones at random values.
    """

    def faults(self, facts: Facts) -> Iterator[Fault]:
        """Why an AutoencoderKL does not fit."""
        drops, fills = self.names != "strict", self.names == "fills"
        checks = [(rules.RGB, False), (rules.widths(*self.widths), False)]
        if self.latent_channels is not None:
            checks.append((rules.latent_channels(*self.latent_channels), False))
        checks += [
            (rules.LAYERS_2, drops if facts.layers > 2 else fills),
            (rules.GROUPS_32, True),  # no tensor says how many there are
            (rules.ONLY_MIDDLE_ATTENTION, drops if facts.middle_attention else fills),
            (rules.SILU, True),
            {
                "both": (rules.BOTH_QUANT_CONVS, fills),
                "none": (rules.NO_QUANT_CONVS, drops),
                "as in the file": (rules.PAIRED_QUANT_CONVS, drops),
            }[self.quant_convs],
        ]
        yield from (Fault(reason, silent) for rule, silent in checks if (reason := rule.broken_by(facts)))


@dataclass(frozen=True)
class Scale:
    """A scale of latents that is fixed in a program."""

    of: str
    channels: int
    """latent channels of the models that it applies to"""
    factor: float
    shift: float = 0.0

    def __str__(self) -> str:
        return f"{self.factor:g}{f', shift {self.shift:g}' if self.shift else ''} ({self.of})"


SD, XL = Scale("SD", 4, 0.18215), Scale("SDXL", 4, 0.13025)
SD3, FLUX = Scale("SD3", 16, 1.5305, 0.0609), Scale("FLUX.1", 16, 0.3611, 0.1159)


@dataclass(frozen=True)
class Loader:
    """How a program loads an autoencoder, and what it requires of the model.

    The loaders of files were run on random weights of Stable Diffusion's architecture, 64 pixels wide. Where `compat`
    says yes, latents and images were diffusers' to 3e-5 (MLX stable_diffusion: 5e-4); where it says that a loader is
    silently wrong, they differed by 0.1 or more.
    """

    use: str
    """how to use the export, where it works"""
    seen: str
    """version or commit, and whether the loader was run or its source was read there"""
    rules: tuple[Rule, ...] = ()
    """what it requires: it fails without"""
    unchecked: tuple[Rule, ...] = ()
    """what it requires and does not check: without, it loads and gives wrong results"""
    network: Network | None = None
    """what it builds before it reads a file; None: what the config says"""
    warns: tuple[Rule, ...] = ()
    """what does not keep it from working, but should be known"""
    scales: tuple[Scale, ...] | None = None
    """by which it scales latents whatever the config says; None: by this config or the diffusion model's"""
    ignores_shift: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether one loader of a program can use a model."""

    consumer: str
    works: bool
    reasons: tuple[str, ...]
    """why not; empty where it works"""
    silent: bool
    """whether it does not work and reports no error: latents or images are wrong"""
    warnings: tuple[str, ...]
    """what should be known where it works"""
    note: str
    """how to use the export, where it works"""
    seen: str
    """the version that this is about, and whether the loader was run or read"""


def judge(name: str, loader: Loader, model: "Autoencoder") -> Verdict:
    """The verdict for one loader, from the model's config alone."""
    facts = Facts(model)
    faults = list(_faults(loader, facts))
    works = not faults
    warnings = (text for rule in loader.warns if (text := rule.broken_by(facts)))
    return Verdict(
        consumer=name,
        works=works,
        reasons=tuple(fault.reason for fault in faults),
        silent=not works and all(fault.silent for fault in faults),
        warnings=(*warnings, *_scaling(loader, facts)) if works else (),
        note=loader.use if works else "",
        seen=loader.seen,
    )


def _faults(loader: Loader, facts: Facts) -> Iterator[Fault]:
    broken = [(rule, reason) for rule in loader.rules if (reason := rule.broken_by(facts))]
    if of_class := [Fault(reason) for rule, reason in broken if rule in CLASSES]:
        yield from of_class
        return
    yield from (Fault(reason) for _, reason in broken)
    yield from (Fault(reason, silent=True) for rule in loader.unchecked if (reason := rule.broken_by(facts)))
    if loader.network is not None:
        yield from loader.network.faults(facts)


def _scaling(loader: Loader, facts: Facts) -> list[str]:
    """How a loader scales latents differently from the config."""
    own, shift = facts.scaling, facts.shift or 0.0
    if loader.scales is None or own is None:
        ignored = loader.ignores_shift and shift
        return [f"it ignores shift_factor {shift:.3g}: ignore it in training too"] if ignored else []
    scales = [each for each in loader.scales if each.channels == facts.latent_channels]
    if not scales or any(
        math.isclose(own, each.factor, rel_tol=1e-3) and abs(shift - each.shift) < 1e-4 for each in scales
    ):
        return []
    return [f"it scales latents by {' or '.join(map(str, scales))}, not by the config's {own:.4g}, shift {shift:.3g}"]
