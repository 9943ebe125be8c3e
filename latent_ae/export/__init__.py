"""Models for other programs: one file a target, one table of them.

An exporter writes beside the place that is asked for, loads what it wrote as its consumer does, compares what comes
out with what the model says, and only then is it renamed there. tests/export/test_contract.py holds every entry of the
table to that.
"""

from collections.abc import Callable

from latent_ae.export.compat import Verdict, compat
from latent_ae.export.diffusers_folder import DiffusersFolder
from latent_ae.export.errors import ExportError, ProofFailed
from latent_ae.export.ldm_file import LdmFile
from latent_ae.export.onnx_graphs import OnnxGraphs
from latent_ae.export.pt2_programs import Pt2Programs
from latent_ae.export.running import Exported, Exporter, export
from latent_ae.export.source import ModelSource

__all__ = [
    "EXPORTERS",
    "DiffusersFolder",
    "ExportError",
    "Exported",
    "Exporter",
    "LdmFile",
    "ModelSource",
    "OnnxGraphs",
    "ProofFailed",
    "Pt2Programs",
    "Verdict",
    "compat",
    "export",
]

EXPORTERS: dict[str, Callable[..., Exporter]] = {
    "diffusers": DiffusersFolder,
    "ldm": LdmFile,
    "onnx": OnnxGraphs,
    "pt2": Pt2Programs,
}
