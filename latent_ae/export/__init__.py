"""Models for other programs: one file a target, one table of them, from which `export` and `compat` are made.

An exporter writes beside the destination, loads what it wrote as its consumer does, compares the outputs with the
model's, and only then is the export renamed to its place. tests/export/test_contract.py checks every entry.

Importing the table imports no torch, so that help comes at once.
"""

import pkgutil
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from latent_ae.export.exporter import Exporter


class Target(NamedTuple):
    """An export target."""

    summary: str
    """what it writes, for the help; lower case, no full stop"""
    exporter: str
    """`module:class` of its Exporter"""


EXPORTERS: dict[str, Target] = {
    "diffusers": Target(
        "a folder for diffusers, alone or as a pipeline's vae/", "latent_ae.export.diffusers_folder:DiffusersFolder"
    ),
    "ldm": Target(
        "one file under latent-diffusion's names, and its config beside it", "latent_ae.export.ldm_file:LdmFile"
    ),
    "onnx": Target(
        "two ONNX graphs, encoder and decoder, laid out as optimum's", "latent_ae.export.onnx_graphs:OnnxGraphs"
    ),
    "pt2": Target(
        "two programs of torch.export that run without diffusers", "latent_ae.export.pt2_programs:Pt2Programs"
    ),
}


def exporter_class(target: str) -> "type[Exporter]":
    """The class of an entry of EXPORTERS."""
    return cast("type[Exporter]", pkgutil.resolve_name(EXPORTERS[target].exporter))
