"""Two ONNX graphs, encoder and decoder, in the places and with the names that optimum gives them."""

import argparse
import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from latent_ae.export import rules
from latent_ae.export.compat import Loader
from latent_ae.export.exporter import Exporter, add_size

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from latent_ae.export.proof import Probe, Proof
    from latent_ae.export.source import ModelSource

_MODULES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 20
_GRAPHS = "the ONNX graphs (latent-ae export onnx)"


class _Graph(NamedTuple):
    folder: str
    takes: str
    gives: str


_GRAPHS_OF = {
    "AutoencoderKL": (
        _Graph("vae_encoder", "sample", "latent_parameters"),
        _Graph("vae_decoder", "latent_sample", "sample"),
    ),
    "VQModel": (_Graph("vqvae_encoder", "sample", "indices"), _Graph("vqvae_decoder", "indices", "sample")),
}
"""encoder and decoder by the model's class; optimum has no names for VQModel's, which must differ from the others"""


@dataclass(frozen=True)
class OnnxGraphs(Exporter):
    """vae_encoder/ and vae_decoder/ (vqvae_... of a VQModel), each with model.onnx and config.json.

    Graphs are deterministic: an encoder gives the posterior's moments, mean and log-variance concatenated, or codes.
    """

    size: tuple[int, int] | None = None

    summary = "two ONNX graphs, encoder and decoder, laid out as optimum's"
    consumer = "ONNX Runtime"
    loaders = {  # noqa: RUF012 - never written
        "optimum, ONNX Runtime": Loader(
            "vae_encoder/ and vae_decoder/ (latent-ae export onnx)",
            "read, optimum-onnx 0.1.0",
            rules=(rules.KL, rules.SYMMETRIC, rules.SCALING_IS_NUMBER),
        ),
        "OpenVINO": Loader(f"{_GRAPHS}: read_model, compile_model", "run, OpenVINO 2026.4.1"),
        "ONNX Runtime": Loader(_GRAPHS, "run, ONNX Runtime 1.32.0"),
        "onnxruntime-web": Loader(f"{_GRAPHS}, in WebAssembly", "run, onnxruntime-web 1.30.0"),
    }

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """--size."""
        add_size(parser)

    def places(self, out: Path) -> list[Path]:
        """The folder. Raises ExportError if a package that is needed is not installed."""
        for name in _MODULES:
            _module(name)
        return [out]

    def write(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> tuple[str, ...]:  # noqa: ARG002
        """Raises OSError."""
        from latent_ae.export.graphs import programs
        from latent_ae.export.source import config_of, write_config

        config = config_of(source.model)
        graphs = _GRAPHS_OF[type(source.model).__name__]
        for graph, program in zip(graphs, programs(source.model, self.size), strict=True):
            folder = out / graph.folder
            folder.mkdir(parents=True)
            _convert(program, graph, source).save(folder / "model.onnx")
            write_config(folder, config)
        source.write_companions(out, card=False)
        return ()

    def prove(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> "Proof":
        """In ONNX Runtime on the CPU."""
        import torch

        from latent_ae.export.graphs import compare_graphs
        from latent_ae.export.proof import Proof

        def loaded(graph: _Graph) -> "Callable[[Tensor], Tensor]":
            file = str(out / graph.folder / "model.onnx")
            session = _module("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
            return lambda inputs: torch.from_numpy(session.run([graph.gives], {graph.takes: inputs.numpy()})[0])

        encoder, decoder = map(loaded, _GRAPHS_OF[type(source.model).__name__])
        return Proof("onnxruntime.InferenceSession", compare_graphs(source.model, probes, encoder, decoder))


def _convert(program: "ExportedProgram", graph: _Graph, source: "ModelSource") -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's converter warns of its own use of torch
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=_OPSET,
            input_names=[graph.takes],
            output_names=[graph.gives],
            verbose=False,
        )
    assert converted is not None
    for node in converted.model.graph:
        node.metadata_props.clear()  # where in whose program it comes from
    converted.model.metadata_props.update({"latent_ae.encoder_identity": source.identity, **source.pixel_metadata})
    return converted


def _module(name: str) -> Any:
    from latent_ae.export.proof import ExportError

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f'{name} is not installed: pip install "latent-ae[onnx]"') from error
