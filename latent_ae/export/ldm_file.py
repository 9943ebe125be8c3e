"""One safetensors file under latent-diffusion's names, as ComfyUI, A1111 and `from_single_file` read them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from diffusers import AutoencoderKL

from latent_ae.export.errors import ExportError
from latent_ae.export.half import DTYPES, measure_half, rounded
from latent_ae.export.probes import Probe, answer
from latent_ae.export.proof import Proof, compare_answers, compare_scaling
from latent_ae.export.source import ModelSource, config_of, write_config
from latent_ae.models.ldm_keys import to_ldm_keys
from latent_ae.models.loading import quiet_diffusers
from latent_ae.models.single_file import CONFIG

IDENTITY = "latent_ae.encoder_identity"
"""entry of the file's metadata, beside CONFIG"""
PREFIX = "first_stage_model."
"""of an autoencoder's tensors in the checkpoint of a whole diffusion model"""


@dataclass(frozen=True)
class LdmFile:
    """NAME.safetensors with the config in its metadata, and beside it NAME.config/ with what else there is."""

    prefix: str = ""
    """of every tensor's name: none, or PREFIX"""
    variant: str = "fp32"
    """fp32, fp16 or bf16"""

    consumer = "AutoencoderKL.from_single_file"

    def places(self, out: Path) -> list[Path]:
        """The folder beside the file, and the file, which comes last. Raises ExportError for another suffix."""
        if out.suffix != ".safetensors":
            raise ExportError(f"--out {out}: expected the name of a file that ends in .safetensors")
        return [sidecar(out), out]

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:
        """Raises OSError. Warns of fp16, in which some programs run whatever they load, where the model does badly."""
        config = config_of(source.model)
        named = to_ldm_keys(source.model.state_dict(), len(config["block_out_channels"]))
        tensors = {
            self.prefix + name: tensor.to(DTYPES[self.variant], memory_format=torch.contiguous_format).contiguous()
            for name, tensor in named.items()
        }
        metadata = {"format": "pt", CONFIG: json.dumps(config, sort_keys=True)}
        if self.variant == "fp32":  # rounded, it is another encoder
            metadata[IDENTITY] = source.identity
        safetensors.torch.save_file(tensors, out, metadata=metadata)
        sidecar(out).mkdir()
        write_config(sidecar(out), config)
        source.copy_companions(sidecar(out))
        half = measure_half(source.model, "bf16" if self.variant == "bf16" else "fp16", probes)
        return (half.warning,) if half.warning else ()

    def prove(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> Proof:
        """Through `from_single_file` with the folder as its config, offline: the same to the last bit in float32."""
        reference = None if self.variant == "fp32" else rounded(source.model, self.variant)
        with quiet_diffusers():  # it warns of its own way of casting
            loaded = AutoencoderKL.from_single_file(
                str(out), config=str(sidecar(out)), torch_dtype=torch.float32, local_files_only=True
            )
        comparisons = compare_scaling(loaded, config_of(source.model))
        for probe in probes:
            expected = probe.answer if reference is None else answer(reference, probe.pixels)
            comparisons += compare_answers(probe, answer(loaded, probe.pixels), expected)
        return Proof(f"diffusers.AutoencoderKL.from_single_file(FILE, config={sidecar(out).name!r})", comparisons)


def sidecar(out: Path) -> Path:
    """The folder beside a file: config.json, statistics, card and report."""
    return out.with_suffix(".config")
