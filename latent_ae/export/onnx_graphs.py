"""Two ONNX graphs, encoder and decoder, in the places and with the names that optimum gives them."""

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

from latent_ae.export.errors import ExportError
from latent_ae.export.graphs import programs
from latent_ae.export.probes import Probe
from latent_ae.export.proof import Comparison, Proof, compare_close, compare_encoded
from latent_ae.export.source import ModelSource, config_of, write_config
from latent_ae.models import Autoencoder

_MODULES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 20


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
class OnnxGraphs:
    """vae_encoder/ and vae_decoder/ (vqvae_... of a VQModel), each with model.onnx and config.json.

    Batch, height and width are free. Nothing is drawn at random in a graph: an encoder gives the posterior's moments,
    mean and log-variance one after the other, or codes.
    """

    size: tuple[int, int] | None = None
    """height and width in pixels of the one image that is taken at a time; None: batches of any size"""

    consumer = "ONNX Runtime"

    def places(self, out: Path) -> list[Path]:
        """The folder alone. Raises ExportError where the packages for it are not installed."""
        for name in _MODULES:
            _module(name)
        return [out]

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:  # noqa: ARG002 - as all exporters
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
        """In ONNX Runtime on the CPU, within what is close."""
        encoder, decoder = (_Session(out, graph) for graph in _graphs(source.model))
        comparisons: list[Comparison] = []
        for probe in probes:
            answer = probe.answer
            comparisons += compare_encoded(probe, encoder(probe.pixels), source.model)
            latents = answer.latents if answer.codes is None else answer.codes
            comparisons.append(compare_close("decoder's pixels", probe, decoder(latents), answer.pixels))
        return Proof("onnxruntime.InferenceSession", comparisons)


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
