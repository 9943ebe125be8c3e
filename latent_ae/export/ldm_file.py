"""One safetensors file under latent-diffusion's names, as ComfyUI, A1111 and `from_single_file` read them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import yaml
from diffusers import AutoencoderKL

from latent_ae.export.compat import verdict
from latent_ae.export.errors import ExportError
from latent_ae.export.half import DTYPES, measure_half, rounded
from latent_ae.export.ldm_config import ldm_config
from latent_ae.export.probes import Probe, answer
from latent_ae.export.proof import Comparison, Proof, compare_answers, compare_scaling
from latent_ae.export.source import ModelSource, config_of, write_config
from latent_ae.models.ldm_keys import to_ldm_keys
from latent_ae.models.loading import quiet_diffusers
from latent_ae.models.single_file import CONFIG, load_single_file

IDENTITY = "latent_ae.encoder_identity"
"""entry of the file's metadata, beside CONFIG"""
LDM_CONFIG = "ldm.yaml"
"""in the folder beside the file: what latent-diffusion builds its own model from"""
PREFIX = "first_stage_model."
"""of an autoencoder's tensors in the checkpoint of a whole diffusion model"""


@dataclass(frozen=True)
class LdmFile:
    """NAME.safetensors with the config in its metadata, and beside it NAME.config/ with what else there is.

    Every model has names in it. Which programs read them is `compat`'s to say, and no reason not to write the file.
    """

    prefix: str = ""
    """of every tensor's name: none, or PREFIX"""
    variant: str = "fp32"
    """fp32, fp16 or bf16"""

    consumer = "latent-ae import"
    size = None

    def places(self, out: Path) -> list[Path]:
        """The folder beside the file, and the file, which comes last. Raises ExportError for another suffix."""
        if out.suffix != ".safetensors":
            raise ExportError(f"--out {out}: expected the name of a file that ends in .safetensors")
        return [sidecar(out), out]

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:
        """Raises OSError.

        Warns if diffusers' from_single_file cannot read the file, and of fp16, in which some programs run whatever they
        load, where the model does badly.
        """
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
        if verdict(source.model, "latent-diffusion").works:
            text = yaml.safe_dump(ldm_config(source.model), sort_keys=False)
            (sidecar(out) / LDM_CONFIG).write_text(text, encoding="utf-8")
        source.copy_companions(sidecar(out))
        half = measure_half(source.model, "bf16" if self.variant == "bf16" else "fp16", probes)
        stock = verdict(source.model, "AutoencoderKL.from_single_file")
        unread = f"diffusers' AutoencoderKL.from_single_file cannot read this file: {'; '.join(stock.reasons)}"
        return (*(() if stock.works else (unread,)), *((half.warning,) if half.warning else ()))

    def prove(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> Proof:
        """By `latent-ae import`, and by `from_single_file` where it knows such a model: the same to the last bit."""
        reference = None if self.variant == "fp32" else rounded(source.model, self.variant)
        loaded = {self.consumer: load_single_file(out)}
        if verdict(source.model, "AutoencoderKL.from_single_file").works:
            with quiet_diffusers():  # it warns of its own way of casting
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


def sidecar(out: Path) -> Path:
    """The folder beside a file: config.json, statistics, card and report."""
    return out.with_suffix(".config")
