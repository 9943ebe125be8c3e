"""A folder that diffusers loads, alone or as `vae/` of a pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from latent_ae.export.half import in_type, measure_half, rounded
from latent_ae.export.probes import Probe, answer
from latent_ae.export.proof import Comparison, Proof, compare_answers, compare_scaling
from latent_ae.export.source import ModelSource, config_of, write_config
from latent_ae.models.autoencoder import CLASSES, class_name


@dataclass(frozen=True)
class DiffusersFolder:
    """config.json, weights in one or several precisions, card and statistics."""

    variants: tuple[str, ...] = ("fp32",)
    """of fp32, fp16 and bf16; but for fp32's, a file bears its variant's name, and `variant=` loads it"""
    measure: bool = True
    """whether `force_upcast` is to say what fp16 was measured to do, instead of what the model's config says"""

    consumer = "diffusers"
    size = None

    def places(self, out: Path) -> list[Path]:
        """The folder alone."""
        return [out]

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:
        """Raises OSError. Warns of precisions in which the model does badly."""
        out.mkdir()
        config = config_of(source.model)
        wanted = {*self.variants} - {"fp32"}
        if self.measure and "force_upcast" in config:
            wanted.add("fp16")
        halves = {variant: measure_half(source.model, variant, probes) for variant in sorted(wanted)}
        if self.measure and "force_upcast" in config:
            config["force_upcast"] = not halves["fp16"].is_safe
        for variant in self.variants:
            model = source.model if variant == "fp32" else in_type(source.model, variant)
            model.save_pretrained(out, variant=_suffix(variant))
        write_config(out, config)
        source.copy_companions(out)
        return tuple(half.warning for half in halves.values() if half.warning)

    def prove(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> Proof:
        """Through `from_pretrained`, as the folder itself and as a subfolder: the same to the last bit in float32."""
        kind = CLASSES[class_name(source.model)]
        comparisons: list[Comparison] = []
        for variant in self.variants:
            reference = None if variant == "fp32" else rounded(source.model, variant)
            options = {"variant": _suffix(variant), "torch_dtype": torch.float32, "local_files_only": True}
            loaded = {
                "": kind.from_pretrained(out, **options),
                " as a subfolder": kind.from_pretrained(out.parent, subfolder=out.name, **options),
            }
            for model in loaded.values():
                comparisons += compare_scaling(model, config_of(source.model))
            for number, probe in enumerate(probes):
                expected = probe.answer if reference is None else answer(reference, probe.pixels)
                for how, model in loaded.items():
                    if number == 0 or not how:  # once is enough to see that it is the same
                        got = answer(model, probe.pixels)
                        comparisons += compare_answers(probe, got, expected, name=f"{variant}{how}: ")
        return Proof(f"diffusers.{kind.__name__}.from_pretrained", comparisons)


def _suffix(variant: str) -> str | None:
    return None if variant == "fp32" else variant
