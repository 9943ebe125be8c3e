"""Two programs of torch.export, encoder and decoder, that run without diffusers."""

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.export.compat import Loader
from latent_ae.export.exporter import Exporter, add_size

if TYPE_CHECKING:
    from latent_ae.export.proof import Probe, Proof
    from latent_ae.export.source import ModelSource

ENCODER, DECODER = "encoder.pt2", "decoder.pt2"


@dataclass(frozen=True)
class Pt2Programs(Exporter):
    """encoder.pt2, decoder.pt2 and config.json; `graphs` says their inputs and outputs."""

    size: tuple[int, int] | None = None

    summary = "two programs of torch.export that run without diffusers"
    consumer = "torch.export"
    loaders = {  # noqa: RUF012 - never written
        "torch.export": Loader("encoder.pt2 and decoder.pt2 (latent-ae export pt2)", "run, torch 2.13.0")
    }

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """--size."""
        add_size(parser)

    def write(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> tuple[str, ...]:  # noqa: ARG002
        """Raises OSError."""
        import torch

        from latent_ae.export.graphs import programs
        from latent_ae.export.source import config_of, write_config

        out.mkdir()
        for name, program in zip((ENCODER, DECODER), programs(source.model, self.size), strict=True):
            # Through memory: torch's own writer has several kinds of errors for a full disk.
            buffer = io.BytesIO()
            extra = {"latent_ae.encoder_identity": source.identity, **source.pixel_metadata}
            torch.export.save(program, buffer, extra_files=extra)
            (out / name).write_bytes(buffer.getvalue())
        write_config(out, config_of(source.model))
        source.write_companions(out, card=False)
        return ()

    def prove(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> "Proof":
        """By `torch.export.load`, as the documentation shows: without torch.no_grad."""
        import torch

        from latent_ae.export.graphs import compare_graphs
        from latent_ae.export.proof import Proof, ProofFailed

        def loaded(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
            program = torch.export.load(out / name).module()

            def run(inputs: torch.Tensor) -> torch.Tensor:
                outputs: torch.Tensor = program(inputs)
                if outputs.requires_grad:
                    raise ProofFailed("the export keeps what gradients need, which takes several times the memory")
                return outputs

            return run

        comparisons = compare_graphs(source.model, probes, loaded(ENCODER), loaded(DECODER))
        return Proof("torch.export.load(FILE).module()", comparisons)
