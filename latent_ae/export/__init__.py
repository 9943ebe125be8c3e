"""Models for other programs: one file a target, one table of them, from which `export` and `compat` are made.

An exporter writes beside the destination, loads what it wrote as its consumer does and compares the outputs with the
model's; only then is the export renamed to its place. Importing the table imports no torch: help comes at once.
"""

from typing import TYPE_CHECKING

from latent_ae.export.compat import Verdict, judge
from latent_ae.export.diffusers_folder import DiffusersFolder
from latent_ae.export.exporter import Exporter
from latent_ae.export.ldm_file import LdmFile
from latent_ae.export.onnx_graphs import OnnxGraphs
from latent_ae.export.pt2_programs import Pt2Programs

if TYPE_CHECKING:
    from latent_ae.models import Autoencoder

EXPORTERS: dict[str, type[Exporter]] = {
    "diffusers": DiffusersFolder,
    "ldm": LdmFile,
    "onnx": OnnxGraphs,
    "pt2": Pt2Programs,
}


def compat(model: "Autoencoder") -> list[Verdict]:
    """A verdict for every loader of every exporter, from the model's config alone: nothing is run."""
    return [judge(name, loader, model) for exporter in EXPORTERS.values() for name, loader in exporter.loaders.items()]
