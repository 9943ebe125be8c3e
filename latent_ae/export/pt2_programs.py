"""Two programs of torch.export, encoder and decoder, that run without diffusers."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from latent_ae.export.errors import ProofFailed
from latent_ae.export.graphs import programs
from latent_ae.export.probes import Probe
from latent_ae.export.proof import Comparison, Proof, compare_close, compare_encoded
from latent_ae.export.source import ModelSource, config_of, write_config

ENCODER, DECODER = "encoder.pt2", "decoder.pt2"


@dataclass(frozen=True)
class Pt2Programs:
    """encoder.pt2, decoder.pt2 and config.json; what they take and give is `latent_ae.export.graphs`'."""

    size: tuple[int, int] | None = None
    """height and width in pixels of the one image that is taken at a time; None: batches of any size"""

    consumer = "torch.export"

    def places(self, out: Path) -> list[Path]:
        """The folder alone."""
        return [out]

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:  # noqa: ARG002 - as all exporters
        """Raises OSError."""
        out.mkdir()
        for name, program in zip((ENCODER, DECODER), programs(source.model, self.size), strict=True):
            (out / name).write_bytes(_bytes(program, source.identity))
        write_config(out, config_of(source.model))
        source.copy_companions(out, card=False)
        return ()

    def prove(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> Proof:
        """By `torch.export.load`, within what is close."""
        encoder, decoder = (torch.export.load(out / name).module() for name in (ENCODER, DECODER))
        comparisons: list[Comparison] = []
        for probe in probes:
            answer = probe.answer
            comparisons += compare_encoded(probe, _run(encoder, probe.pixels), source.model)
            latents = answer.latents if answer.codes is None else answer.codes
            comparisons.append(compare_close("decoder's pixels", probe, _run(decoder, latents), answer.pixels))
        return Proof("torch.export.load(FILE).module()", comparisons)


def _bytes(program: ExportedProgram, identity: str) -> bytes:
    # By way of memory: torch's own writer answers a full disk with errors of many kinds.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"latent_ae.encoder_identity": identity})
    return buffer.getvalue()


def _run(program: torch.nn.Module, inputs: Tensor) -> Tensor:
    """As the documentation shows: without torch.no_grad. Raises ProofFailed if what gradients need is kept."""
    outputs: Tensor = program(inputs)
    if outputs.requires_grad:
        raise ProofFailed("what was written keeps what gradients need, and takes several times the memory")
    return outputs
