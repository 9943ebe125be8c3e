"""What becomes of a model in a loader that builds an autoencoder of its own before it reads a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from latent_ae.export import facts as rules
from latent_ae.export.facts import Facts


class Fault(NamedTuple):
    """Why a model does not work."""

    reason: str
    silent: bool = False
    """whether the loader takes the file nonetheless, and gives other latents or images without a word"""


@dataclass(frozen=True)
class Network:
    """Stable Diffusion's autoencoder for RGB images, with 2 layers a level and 32 groups, as a loader builds it."""

    widths: tuple[tuple[int, ...], ...] = (rules.STABLE_DIFFUSION,)
    latent_channels: tuple[int, ...] | None = None
    """None: as many as the file has"""
    quant_convs: Literal["both", "none", "as in the file"] = "as in the file"
    names: Literal["strict", "drops", "fills"] = "strict"
    """What it does with tensors that it has no place for, and with those that are missing: it refuses both; it drops
    the former without a word and fails for the latter; or it drops the former and leaves the latter at random values.
    """

    def faults(self, facts: Facts) -> Iterator[Fault]:
        """Of an AutoencoderKL."""
        drops, fills = self.names != "strict", self.names == "fills"
        built_in = [rules.rgb, rules.widths(*self.widths)]
        if self.latent_channels is not None:
            built_in.append(rules.latent_channels(*self.latent_channels))
        checked = [(rule, False) for rule in built_in]
        checked.append((rules.layers_2, drops if facts.layers > 2 else fills))
        checked.append((rules.groups_32, True))  # no tensor says how many there are
        checked.append((rules.only_middle_attention, drops if facts.middle_attention else fills))
        checked.append((rules.silu, True))
        if self.quant_convs == "both":
            checked.append((rules.both_quant_convs, fills))
        elif self.quant_convs == "none":
            checked.append((rules.no_quant_convs, drops))
        else:
            checked.append((rules.paired_quant_convs, drops))
        for rule, silent in checked:
            if reason := rule(facts):
                yield Fault(reason, silent)
