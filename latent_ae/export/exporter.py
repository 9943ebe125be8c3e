"""What an exporter is, and how it is run: write beside the destination, prove, report, rename."""

import argparse
import importlib.metadata
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from latent_ae.errors import one_line
from latent_ae.export.compat import Loader
from latent_ae.io.atomic import placed
from latent_ae.io.checksum import file_sha256

if TYPE_CHECKING:
    from latent_ae.data import DataConfig
    from latent_ae.export.proof import Probe, Proof
    from latent_ae.export.source import ModelSource

REPORT = "export_report.json"
VARIANTS = ("fp32", "fp16", "bf16")
"""types of weights, by the names that diffusers' `variant` has"""
_PACKAGES = ("latent-ae", "torch", "diffusers", "safetensors", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Exporter(ABC):
    """One export target: a frozen dataclass whose fields are its options.

    `out` does not exist yet, and its parent is a folder that holds nothing but this export. Modules of exporters import
    torch in `write` and `prove` only.
    """

    summary: ClassVar[str]
    """what it writes, for the help; lower case, no full stop"""
    out: ClassVar[tuple[str, str]] = ("vae", "the folder to create")
    """an example of --out, and its help"""
    consumer: ClassVar[str]
    """the program that the proof loads it with"""
    loaders: ClassVar[Mapping[str, Loader]]
    """loaders of other programs that read it, by name: the rows of `compat`"""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width in pixels of the only images that are accepted, if it has the option `size`; None: any."""
        size: tuple[int, int] | None = getattr(self, "size", None)
        return size

    @staticmethod  # noqa: B027 - a target may have no options
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Add the command line's options, each with the name of its field as `dest`."""

    def places(self, out: Path) -> list[Path]:
        """All files and folders that are written, in one folder, `out` last. Raises ExportError if they cannot be."""
        return [out]

    @abstractmethod
    def write(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> tuple[str, ...]:
        """Write all places. Returns warnings for the user. Raises OSError."""

    @abstractmethod
    def prove(self, source: "ModelSource", out: Path, probes: "Sequence[Probe]") -> "Proof":
        """Load what was written as its consumer does, and compare."""


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    out: Path
    report: Path
    proof: "Proof"
    warnings: tuple[str, ...]


def export(source: "ModelSource", out: Path, exporter: Exporter, *, data: "DataConfig | None" = None) -> Exported:
    """Write an export and prove it. Nothing is left at `out` unless the proof succeeds.

    Args:
        source: the model.
        out: folder or file to create.
        exporter: an exporter with its options.
        data: where held-out images come from; None: the photographs or digits that need no download.

    Raises ExportError for what cannot be exported, PlaceTakenError, DataError, ProofFailed with what differs, OSError.
    """
    from latent_ae.export.proof import make_probes

    places = exporter.places(out)
    with placed(places) as folder:
        probes = make_probes(source.model, source.pixel_format, data, size=exporter.image_size)
        made = folder / out.name
        warnings = exporter.write(source, made, probes)
        proof = _proven(source, made, exporter, probes)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        report = {
            "schema": 1,
            "target": exporter.consumer,
            "options": dict(vars(exporter)),
            "model": Path(source.name).name if source.folder is not None else source.name,
            "encoder_identity": source.identity,
            **({} if source.pixel_format.is_default else {"pixel_format": asdict(source.pixel_format)}),
            "loader": proof.loader,
            "comparisons": [asdict(comparison) for comparison in proof.comparisons],
            "warnings": list(warnings),
            "files": {
                path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
                for path in files
            },
            "versions": _versions(),
        }
        text = json.dumps(report, indent=2) + "\n"
        (exporter.places(made)[0] / REPORT).write_text(text, encoding="utf-8")
    return Exported(out, places[0] / REPORT, proof, warnings)


def _proven(source: "ModelSource", made: Path, exporter: Exporter, probes: "Sequence[Probe]") -> "Proof":
    from latent_ae.export.proof import ProofFailed

    try:
        proof = exporter.prove(source, made, probes)
    except (MemoryError, ProofFailed):
        raise
    except Exception as error:  # every consumer has its own errors
        raise ProofFailed(f"{exporter.consumer} cannot load the export: {one_line(error)}") from error
    if failed := [comparison for comparison in proof.comparisons if not comparison.passed]:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ProofFailed(f"the export differs from the model: {failed[0]}{more}")
    return proof


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def add_size(parser: argparse.ArgumentParser) -> None:
    """Add --size, for targets with a field `size`."""
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="height and width in pixels: accept only one image of this size at a time, for converters and runtimes "
        "that need fixed shapes (default: batches of any size)",
    )


def _size(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected height and width in pixels, such as 512x768")
    return int(match[1]), int(match[2])
