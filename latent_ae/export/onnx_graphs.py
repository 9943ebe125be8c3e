"""Two ONNX graphs, encoder and decoder, in the places and with the names that optimum gives them."""

import argparse
import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.export import ExportedProgram

from latent_ae.export import rules
from latent_ae.export.compat import Loader
from latent_ae.export.exporter import Exporter
from latent_ae.export.graphs import add_size, compare_graphs, programs
from latent_ae.export.proof import ExportError, Probe, Proof
from latent_ae.export.source import ModelSource, config_of, write_config
from latent_ae.models import Autoencoder

_MODULES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 20
_GRAPHS = "the ONNX graphs (latent-ae export onnx)"


@dataclass(frozen=True)
class _Graph:
    folder: str
    takes: str
    gives: str


_GAUSSIAN = (
    _Graph("vae_encoder", "sample", "latent_parameters"),
    _Graph("vae_decoder", "latent_sample", "sample"),
)
_QUANTISED = (_Graph("vqvae_encoder", "sample", "indices"), _Graph("vqvae_decoder", "indices", "sample"))
"""optimum has no names for these; they are not to be taken for the others"""


@dataclass(frozen=True)
class OnnxGraphs(Exporter):
    """vae_encoder/ and vae_decoder/ (vqvae_... of a VQModel), each with model.onnx and config.json.

    Graphs are deterministic: an encoder gives the posterior's moments, mean and log-variance concatenated, or codes.
    """

    size: tuple[int, int] | None = None

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

    @property
    def image_size(self) -> tuple[int, int] | None:
        """That of the option."""
        return self.size

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """--size."""
        add_size(parser)

    def places(self, out: Path) -> list[Path]:
        """The folder. Raises ExportError if a package that is needed is not installed."""
        for name in _MODULES:
            _module(name)
        return [out]

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:  # noqa: ARG002
        """Raises OSError."""
        config = config_of(source.model)
        for graph, program in zip(_graphs(source.model), programs(source.model, self.size), strict=True):
            folder = out / graph.folder
            folder.mkdir(parents=True)
            _convert(program, graph, source.identity).save(folder / "model.onnx")
            write_config(folder, config)
        source.copy_companions(out, card=False)
        return ()

    def prove(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> Proof:
        """In ONNX Runtime on the CPU."""
        encoder, decoder = (_Session(out, graph) for graph in _graphs(source.model))
        return Proof("onnxruntime.InferenceSession", compare_graphs(source.model, probes, encoder, decoder))


class _Session:
    def __init__(self, out: Path, graph: _Graph) -> None:
        file = out / graph.folder / "model.onnx"
        self._session = _module("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self._graph = graph

    def __call__(self, inputs: Tensor) -> Tensor:
        outputs = self._session.run([self._graph.gives], {self._graph.takes: inputs.numpy()})
        return torch.from_numpy(outputs[0])


def _graphs(model: Autoencoder) -> tuple[_Graph, _Graph]:
    return _GAUSSIAN if isinstance(model, AutoencoderKL) else _QUANTISED


def _convert(program: ExportedProgram, graph: _Graph, identity: str) -> Any:
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
    converted.model.metadata_props["latent_ae.encoder_identity"] = identity
    return converted


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f'{name} is not installed: pip install "latent-ae[onnx]"') from error
