"""Which loaders of other programs can use a model, why others cannot, and which give wrong results without an error."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from latent_ae.export import rules
from latent_ae.export.rules import CLASSES, Facts, Rule

if TYPE_CHECKING:
    from latent_ae.models import Autoencoder


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
    warns: tuple[Rule, ...] = ()
    """what does not keep it from working, but should be known"""
    scales: tuple[Scale, ...] | None = None
    """by which it scales latents whatever the config says; None: by this config or the diffusion model's"""
    ignores_shift: bool = False


def stable_diffusion(
    use: str,
    seen: str,
    *,
    scales: tuple[Scale, ...],
    widths: tuple[tuple[int, ...], ...] = (rules.STABLE_DIFFUSION,),
    latent_channels: int | None = None,
    quant_convs: Rule = rules.PAIRED_QUANT_CONVS,
    names: Literal["strict", "drops", "fills"] = "strict",
    more: tuple[Rule, ...] = (),
    warns: tuple[Rule, ...] = (),
) -> Loader:
    """A loader that builds Stable Diffusion's autoencoder, with 2 layers per level, 32 groups and RGB images, before it
    reads a file.

    Args:
        use: as of a `Loader`, like `seen`, `scales` and `warns`.
        seen: see `use`.
        scales: see `use`.
        widths: of the levels, that it knows.
        latent_channels: None: as many as the file has.
        quant_convs: what it requires of the 1x1 convolutions.
        names: how it treats unexpected and missing tensors. strict: both are errors. drops: ignores unexpected ones,
            fails for missing ones. fills: ignores unexpected ones, leaves missing ones at random values.
        more: that it requires besides.
        warns: see `use`.
    """
    fixed = [rules.RGB, rules.widths(*widths)]
    if latent_channels is not None:
        fixed.append(rules.latent_channels(latent_channels))
    unexpected, missing = [rules.AT_MOST_2_LAYERS, rules.NO_OTHER_ATTENTION], [rules.AT_LEAST_2_LAYERS, rules.ATTENTION]
    (missing if quant_convs is rules.BOTH_QUANT_CONVS else unexpected).append(quant_convs)
    checked = (unexpected if names == "strict" else []) + (missing if names != "fills" else [])
    unchecked = [rule for rule in unexpected + missing if rule not in checked]
    unchecked += [rules.GROUPS_32, rules.SILU]  # which no tensor says
    return Loader(
        use, seen, (rules.KL, *more, *fixed, *checked), unchecked=tuple(unchecked), warns=warns, scales=scales
    )


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
    failing, wrong = _broken(loader.rules, facts), _broken(loader.unchecked, facts)
    if of_class := _broken(tuple(rule for rule in loader.rules if rule in CLASSES), facts):
        failing, wrong = of_class, ()
    works = not (failing or wrong)
    return Verdict(
        consumer=name,
        works=works,
        reasons=(*failing, *wrong),
        silent=bool(wrong) and not failing,
        warnings=(*_broken(loader.warns, facts), *_scaling(loader, facts)) if works else (),
        note=loader.use if works else "",
        seen=loader.seen,
    )


def _broken(rules: tuple[Rule, ...], facts: Facts) -> tuple[str, ...]:
    """The reasons of the rules that do not hold."""
    return tuple(reason for rule in rules if (reason := rule.broken_by(facts)))


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
