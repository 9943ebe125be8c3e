"""An export from beginning to end: load, write beside its place, prove, report, rename."""

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from latent_ae.config import DataConfig
from latent_ae.errors import one_line
from latent_ae.export.errors import ProofFailed
from latent_ae.export.probes import Probe, make_probes
from latent_ae.export.proof import Proof
from latent_ae.export.source import ModelSource
from latent_ae.io.atomic import placed

REPORT = "export_report.json"
_PACKAGES = ("latent-ae", "torch", "diffusers", "safetensors", "onnx", "onnxruntime")


class Exporter(Protocol):
    """One target; `out` is free, and its parent a folder that holds nothing but this export."""

    consumer: str
    """what the proof loads it with"""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels of the only images that are taken; None: any."""
        ...

    def places(self, out: Path) -> list[Path]:
        """What is written, beside one another, `out` last. Raises ExportError for what cannot be."""
        ...

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:
        """Write all places; what whoever uses them should know."""
        ...

    def prove(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> Proof:
        """Load what was written as its consumer does, and compare."""
        ...


@dataclass(frozen=True)
class Exported:
    """What was written, in its place."""

    out: Path
    report: Path
    proof: Proof
    warnings: tuple[str, ...]


def export(source: ModelSource, out: Path, exporter: Exporter, *, data: DataConfig | None = None) -> Exported:
    """Write an export, prove it, and put it in its place, which holds nothing unless all of that is done.

    Args:
        source: the model.
        out: folder or file that is to be made.
        exporter: of `EXPORTERS`.
        data: where held-out images come from; None: the photographs or digits that need no download.

    Raises ExportError for what cannot be exported, PlaceTakenError, DataError, ProofFailed with what differs, and
    OSError.
    """
    places = exporter.places(out)
    with placed(places) as folder:
        probes = make_probes(source.model, data, size=exporter.size)
        made = folder / out.name
        warnings = exporter.write(source, made, probes)
        proof = _proven(source, made, exporter, probes)
        report = exporter.places(made)[0] / REPORT
        files = {
            path.relative_to(folder).as_posix(): _file(path) for path in sorted(folder.rglob("*")) if path.is_file()
        }
        report.write_text(
            json.dumps(_report(source, exporter, proof, warnings, files), indent=2) + "\n", encoding="utf-8"
        )
    return Exported(out, places[0] / REPORT, proof, warnings)


def _proven(source: ModelSource, made: Path, exporter: Exporter, probes: Sequence[Probe]) -> Proof:
    try:
        proof = exporter.prove(source, made, probes)
    except (MemoryError, ProofFailed):
        raise
    except Exception as error:  # a consumer says in its own way that it cannot use a file
        raise ProofFailed(f"{exporter.consumer} cannot use what was written: {one_line(error)}") from error
    if failed := [comparison for comparison in proof.comparisons if not comparison.passed]:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ProofFailed(f"what was written is not the model: {failed[0]}{more}")
    return proof


def _file(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _report(
    source: ModelSource, exporter: Exporter, proof: Proof, warnings: Sequence[str], files: Mapping[str, object]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "target": exporter.consumer,
        "options": dict(vars(exporter)),
        "model": Path(source.name).name if source.folder is not None else source.name,
        "encoder_identity": source.identity,
        "loader": proof.loader,
        "comparisons": [asdict(comparison) for comparison in proof.comparisons],
        "warnings": list(warnings),
        "files": dict(files),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
