"""A folder that diffusers loads, alone or as `vae/` of a pipeline."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_ae.export import rules
from latent_ae.export.compat import SD, XL, Loader
from latent_ae.export.exporter import VARIANTS, Exporter

if TYPE_CHECKING:
    from latent_ae.export.proof import Comparison, Probe, Proof
    from latent_ae.export.source import ModelSource

_FOLDER = "the folder (latent-ae export diffusers)"
_DIFFUSERS = "run, diffusers 0.42.1"
_PER_CHANNEL = (
    "latents_mean and latents_std are for (z - latents_mean) * scaling_factor / latents_std, as diffusers' SDXL "
    "pipelines compute: scale latents so in training too; programs that ignore them scale by scaling_factor alone"
)
_RGB_OF_4 = (rules.KL, rules.RGB, rules.FACTOR_OF_8, rules.latent_channels(4))

LOADERS = {
    "diffusers from_pretrained": Loader(_FOLDER, _DIFFUSERS),
    "diffusers SD 1.x and 2.x pipelines": Loader(
        _FOLDER,
        _DIFFUSERS,
        rules=(rules.KL, rules.SYMMETRIC, rules.NO_STATISTICS),
        warns=(rules.PIL_IMAGES,),
        ignores_shift=True,
    ),
    "diffusers SDXL pipelines": Loader(
        _FOLDER,
        _DIFFUSERS,
        rules=(rules.KL, rules.SYMMETRIC, rules.STATISTICS_OF_4),
        warns=(rules.PIL_IMAGES,),
        ignores_shift=True,
    ),
    "diffusers SD3 and FLUX pipelines": Loader(
        _FOLDER,
        _DIFFUSERS,
        rules=(rules.KL, rules.SYMMETRIC, rules.SHIFT_IS_NUMBER, rules.NO_STATISTICS),
        warns=(rules.PIL_IMAGES,),
    ),
    "diffusers LDM super-resolution": Loader(
        f"{_FOLDER}, for images of the latents' size", _DIFFUSERS, rules=(rules.VQ, rules.BESIDE_RGB)
    ),
    "kohya load_vae, a folder": Loader(
        f"{_FOLDER}, for SD and SDXL", "run, sd-scripts 48d368f, 2026-02-16", rules=_RGB_OF_4, scales=(SD, XL)
    ),
    "InvokeAI, a folder": Loader(
        f"{_FOLDER}, for SD and SDXL", "read, InvokeAI 8e71a8a, 2026-08-19", rules=_RGB_OF_4, ignores_shift=True
    ),
    "SD.Next, a folder": Loader(
        f"{_FOLDER} of the loaded model's architecture",
        "read, and from_single_file run with its configs, sdnext 058a7f0, 2026-07-23",
        rules=(rules.KL, rules.RGB),
    ),
    "MLX stable_diffusion": Loader(
        f"{_FOLDER}, in the place of the hub's that it knows",
        "run, mlx-examples 7ddca42, 2025-11-20",
        rules=(rules.KL, rules.SYMMETRIC, rules.NO_LEVEL_ATTENTION),
        unchecked=(rules.BOTH_QUANT_CONVS, rules.MIDDLE_ATTENTION, rules.SILU),
        ignores_shift=True,
    ),
    "optimum-intel, OpenVINO": Loader(
        f"{_FOLDER}, converted by it",
        "read, optimum-intel e1de5be, 2026-08-20",
        rules=(rules.KL, rules.SYMMETRIC, rules.SCALING_IS_NUMBER),
    ),
}


@dataclass(frozen=True)
class DiffusersFolder(Exporter):
    """config.json, weights in one or several types, card and statistics."""

    variants: tuple[str, ...] = ("fp32",)
    """of fp32, fp16 and bf16; the names of the last two are in their files' names, and `variant=` loads them"""
    measure: bool = True
    """whether `force_upcast` follows from a measurement of fp16 instead of the model's config"""
    per_channel: bool = False
    """whether the config gets `latents_mean` and `latents_std`"""

    summary = "a folder for diffusers, alone or as a pipeline's vae/"
    consumer = "diffusers"
    loaders = LOADERS

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """--variant, --per-channel."""
        parser.add_argument(
            "--variant",
            dest="variants",
            nargs="+",
            choices=VARIANTS,
            default=["fp32"],
            help="dtypes of the weights, one file each; load fp16 and bf16 with `variant=` (default: fp32)",
        )
        parser.add_argument(
            "--per-channel",
            action="store_true",
            help="write latents_mean and latents_std of each channel into config.json, from latent_stats.json: "
            "diffusers' SDXL pipelines read them, others ignore them (see compat)",
        )

    def write(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> tuple[str, ...]:
        """Raises OSError, ExportError. Warns of half precisions in which the model overflows or is inexact."""
        from latent_ae.export.half import in_type, measure_half
        from latent_ae.export.source import write_config

        config = self._config(source)
        out.mkdir()
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
        source.write_companions(out)
        warnings = [half.warning for half in halves.values() if half.warning]
        return (*warnings, *([_PER_CHANNEL] if self.per_channel else []))

    def _config(self, source: "ModelSource") -> dict[str, Any]:
        """What config.json says, but for `force_upcast`."""
        from latent_ae.export.source import channel_scale, config_of

        return config_of(source.model) | (channel_scale(source) if self.per_channel else {})

    def prove(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> "Proof":
        """Through `from_pretrained`, as the folder itself and as a subfolder: the same to the last bit in float32."""
        import torch

        from latent_ae.export.half import rounded
        from latent_ae.export.proof import Proof, answer, compare_answers, compare_scaling
        from latent_ae.models.autoencoder import CLASSES, class_name

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
                comparisons += compare_scaling(model, self._config(source))
            for number, probe in enumerate(probes):
                expected = probe.answer if reference is None else answer(reference, probe.pixels)
                for how, model in loaded.items():
                    if number == 0 or not how:  # once is enough to see that it is the same
                        got = answer(model, probe.pixels)
                        comparisons += compare_answers(probe, got, expected, name=f"{variant}{how}: ")
        return Proof(f"diffusers.{kind.__name__}.from_pretrained", comparisons)


def _suffix(variant: str) -> str | None:
    return None if variant == "fp32" else variant
