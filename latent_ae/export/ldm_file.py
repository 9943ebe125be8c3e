"""One safetensors file under latent-diffusion's names, as ComfyUI, A1111 and `from_single_file` read them."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latent_ae.export import rules
from latent_ae.export.compat import FLUX, SD, SD3, XL, Loader, Scale, judge, stable_diffusion
from latent_ae.export.exporter import VARIANTS, Exporter

if TYPE_CHECKING:
    from latent_ae.export.proof import Comparison, Probe, Proof
    from latent_ae.export.source import ModelSource
    from latent_ae.models import Autoencoder

IDENTITY = "latent_ae.encoder_identity"
"""entry of the file's metadata, beside CONFIG"""
LDM_CONFIG = "ldm.yaml"
"""in the folder beside the file: what latent-diffusion builds its own model from"""
PREFIX = "first_stage_model."
"""of an autoencoder's tensors in the checkpoint of a whole diffusion model"""
_GRID = 32
"""side of the latents of an image of `resolution`, by which LDM decides which levels have attention"""

_FILE = "one file (latent-ae export ldm)"
_KOHYA = "run, sd-scripts 48d368f, 2026-02-16"
_FORGE = "run, stable-diffusion-webui-forge dfdcbab, 2025-06-26"
_A1111 = "read, stable-diffusion-webui, stored copies 0180402 (sd_vae.py) and 255da37 (sd3)"
_INVOKE = "InvokeAI 8e71a8a, 2026-08-19"
_SDNEXT = "read, and from_single_file run with its configs, sdnext 058a7f0, 2026-07-23"
_LDM_RULES = (rules.MIDDLE_ATTENTION, rules.MULTIPLES, rules.NO_SPATIAL_NORM, rules.SAME_ATTENTION)
_LDM_UNCHECKED = (rules.GROUPS_32, rules.SILU)


def _fixed(
    channels: int, seen: str, *scales: Scale, use: str = _FILE, names: Literal["strict", "drops", "fills"] = "strict"
) -> Loader:
    """A loader that builds the autoencoder of SD and SDXL (4 channels), or SD3 and FLUX.1 (16), then reads a file."""
    quant_convs = rules.BOTH_QUANT_CONVS if channels == 4 else rules.NO_QUANT_CONVS
    return stable_diffusion(use, seen, scales=scales, latent_channels=channels, quant_convs=quant_convs, names=names)


FROM_SINGLE_FILE = Loader(
    f"{_FILE} with config=DIR: without one it asks the hub for Stable Diffusion's",
    "run, diffusers 0.42.1",
    rules=(rules.KL_FILE, rules.LEVEL_ATTENTION_DROPPED),
)
LATENT_DIFFUSION = Loader(
    f"{_FILE}: instantiate_from_config(ldm.yaml), load_state_dict; LatentDiffusion's config has the scale",
    "run, latent-diffusion a506df5, 2022-07-27",
    rules=(*_LDM_RULES, rules.BOTH_QUANT_CONVS),
    unchecked=_LDM_UNCHECKED,
)
LOADERS = {
    "AutoencoderKL.from_single_file": FROM_SINGLE_FILE,
    "latent-diffusion": LATENT_DIFFUSION,
    "generative-models": Loader(
        f"{_FILE}: AutoencoderKL or, without the 1x1 convolutions, AutoencodingEngine, with ldm.yaml's ddconfig",
        "run, generative-models 0ad7de9, 2025-05-20",
        rules=(rules.KL, *_LDM_RULES, rules.PAIRED_QUANT_CONVS),
        unchecked=_LDM_UNCHECKED,
    ),
    "ComfyUI VAELoader": stable_diffusion(
        _FILE,
        "run, ComfyUI 0.3.64 (a125cd8, 2025-10-11)",
        scales=(SD, XL, SD3, FLUX),
        widths=(rules.STABLE_DIFFUSION, rules.FACTOR_4),
        names="fills",
        more=(rules.mistaken(64, "mistaken for HunyuanImage's, since 0.3.58 (2025-09)"),),
        warns=(
            rules.mistaken(32, "versions of 2025-10 and 2025-11 (0.3.63 until FLUX.2) mistake them for HunyuanVideo's"),
        ),
    ),
    "A1111, SD and SDXL": _fixed(4, _A1111, SD, XL),
    "A1111, SD3": _fixed(16, _A1111, SD3),
    "Forge, SD and SDXL": _fixed(4, _FORGE, SD, XL, names="fills"),
    "Forge, SD3 and FLUX.1": _fixed(16, _FORGE, SD3, FLUX, names="fills"),
    "kohya load_vae, a file": _fixed(4, _KOHYA, SD, XL, use=f"{_FILE}, for SD and SDXL"),
    "kohya sd3_utils.load_vae": _fixed(16, _KOHYA, SD3),
    "kohya flux_utils.load_ae": _fixed(16, _KOHYA, FLUX, names="drops"),
    "InvokeAI, a file for SD and SDXL": _fixed(
        4,
        f"read, and from_single_file run with SD's config, {_INVOKE}",
        SD,
        use=f"{_FILE}, with a name that says sd2 or xl for those; it asks the hub for SD 1's config, for SDXL too",
        names="drops",
    ),
    "InvokeAI, a file for FLUX.1": _fixed(16, f"run, {_INVOKE}", FLUX),
    "SD.Next, a file for SD and SDXL": _fixed(4, _SDNEXT, SD, XL, names="fills"),
    "SD.Next, a file for SD3 and FLUX.1": _fixed(16, _SDNEXT, SD3, FLUX, names="fills"),
    "MLX flux": _fixed(
        16, "run, mlx-examples 7ddca42, 2025-11-20", FLUX, use=f"{_FILE}, its path in the environment variable AE"
    ),
}


@dataclass(frozen=True)
class LdmFile(Exporter):
    """NAME.safetensors with the config in its metadata, and NAME.config/ with the rest beside it.

    Every model can be written; `loaders` has the programs that read it.
    """

    prefix: str = ""
    """of every tensor's name: none, or PREFIX"""
    variant: str = "fp32"
    """fp32, fp16 or bf16"""

    summary = "one file under latent-diffusion's names, and its config beside it"
    out = ("vae.safetensors", "the file to create, NAME.safetensors; NAME.config/ is created beside it")
    consumer = "latent-ae import"
    loaders = LOADERS

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """--variant and --prefix."""
        parser.add_argument("--variant", choices=VARIANTS, default="fp32", help="dtype of the weights (default: fp32)")
        parser.add_argument(
            "--prefix",
            action="store_const",
            const=PREFIX,
            default="",
            help="name tensors as in the checkpoint of a whole diffusion model: first_stage_model.encoder. ...",
        )

    def places(self, out: Path) -> list[Path]:
        """The folder beside the file, then the file. Raises ExportError for another suffix."""
        from latent_ae.export.proof import ExportError
        from latent_ae.export.source import sidecar

        if out.suffix != ".safetensors":
            raise ExportError(f"--out {out}: expected the name of a file that ends in .safetensors")
        return [sidecar(out), out]

    def write(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> tuple[str, ...]:
        """Raises OSError.

        Warns if diffusers' from_single_file cannot read the file, and of half precision in which the model overflows or
        is inexact: of fp16 for a float32 file too, because some programs run every file in it.
        """
        import safetensors.torch
        import torch
        import yaml

        from latent_ae.export.half import DTYPES, measure_half
        from latent_ae.export.source import config_of, sidecar, write_config
        from latent_ae.models.ldm_keys import to_ldm_keys
        from latent_ae.models.single_file import CONFIG

        config = config_of(source.model)
        named = to_ldm_keys(source.model.state_dict(), len(config["block_out_channels"]))
        tensors = {
            self.prefix + name: tensor.to(DTYPES[self.variant], memory_format=torch.contiguous_format).contiguous()
            for name, tensor in named.items()
        }
        metadata = {"format": "pt", CONFIG: json.dumps(config, sort_keys=True), **source.pixel_metadata}
        if self.variant == "fp32":  # rounded, it is another encoder
            metadata[IDENTITY] = source.identity
        safetensors.torch.save_file(tensors, out, metadata=metadata)
        sidecar(out).mkdir()
        write_config(sidecar(out), config)
        if judge("latent-diffusion", LATENT_DIFFUSION, source.model).works:
            text = yaml.safe_dump(ldm_config(source.model), sort_keys=False)
            (sidecar(out) / LDM_CONFIG).write_text(text, encoding="utf-8")
        source.write_companions(sidecar(out))
        half = measure_half(source.model, "bf16" if self.variant == "bf16" else "fp16", probes)
        stock = judge("from_single_file", FROM_SINGLE_FILE, source.model)
        unread = f"diffusers' AutoencoderKL.from_single_file cannot read this file: {'; '.join(stock.reasons)}"
        return (*(() if stock.works else (unread,)), *((half.warning,) if half.warning else ()))

    def prove(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> "Proof":
        """By `latent-ae import`, and by `from_single_file` if it reads such a model: the same to the last bit."""
        import torch
        from diffusers import AutoencoderKL

        from latent_ae.export.half import rounded
        from latent_ae.export.proof import Proof, answer, compare_answers, compare_scaling
        from latent_ae.export.source import config_of, sidecar
        from latent_ae.models.loading import quiet_diffusers
        from latent_ae.models.single_file import load_single_file

        reference = None if self.variant == "fp32" else rounded(source.model, self.variant)
        loaded = {self.consumer: load_single_file(out)}
        if judge("from_single_file", FROM_SINGLE_FILE, source.model).works:
            with quiet_diffusers():  # it warns of how it casts
                loaded[f"diffusers.AutoencoderKL.from_single_file(FILE, config={sidecar(out).name!r})"] = (
                    AutoencoderKL.from_single_file(
                        str(out), config=str(sidecar(out)), torch_dtype=torch.float32, local_files_only=True
                    )
                )
        comparisons: list[Comparison] = []
        for name, model in loaded.items():
            comparisons += compare_scaling(model, config_of(source.model))
            for probe in probes:
                expected = probe.answer if reference is None else answer(reference, probe.pixels)
                comparisons += compare_answers(probe, answer(model, probe.pixels), expected, name=f"{name}: ")
        return Proof(" and ".join(loaded), comparisons)


def ldm_config(model: "Autoencoder") -> dict[str, Any]:
    """The architecture for `ldm.util.instantiate_from_config`: `target` and `params`.

    The model must be one that LATENT_DIFFUSION accepts.
    """
    from latent_ae.models.autoencoder import class_name, factor_of

    config, is_kl = model.config, class_name(model) == "AutoencoderKL"
    widths, latent_channels = tuple(config["block_out_channels"]), int(config["latent_channels"])
    resolution = _GRID * factor_of(model)
    levels = [level for level, kind in enumerate(config["down_block_types"]) if "Attn" in kind]
    codes = {} if is_kl else {"n_embed": int(config["num_vq_embeddings"])}
    return {
        "target": f"ldm.models.autoencoder.{'AutoencoderKL' if is_kl else 'VQModel'}",
        "params": {
            "embed_dim": latent_channels if is_kl else int(config["vq_embed_dim"] or latent_channels),
            **codes,
            "ddconfig": {
                "double_z": is_kl,
                "z_channels": latent_channels,
                "resolution": resolution,
                "in_channels": int(config["in_channels"]),
                "out_ch": int(config["out_channels"]),
                "ch": widths[0],
                "ch_mult": [width // widths[0] for width in widths],
                "num_res_blocks": int(config["layers_per_block"]),
                "attn_resolutions": [resolution >> level for level in levels],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }
