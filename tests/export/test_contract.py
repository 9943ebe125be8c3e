"""What holds for every exporter of the table."""

import dataclasses
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

import latent_ae
from latent_ae.export import EXPORTERS, Exporter, ModelSource, ProofFailed, export
from latent_ae.export.probes import make_probes
from latent_ae.io.atomic import PlaceTakenError
from latent_ae.models import load_autoencoder
from tests.export.conftest import Exports, left, place

SLOW = ("onnx", "pt2")
"""half a minute of conversion each"""
FAST = [name for name in EXPORTERS if name not in SLOW]
TARGETS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in EXPORTERS]


class Deceived:
    """An exporter that is given another model to write than the one it is to prove."""

    def __init__(self, exporter: Exporter, other: ModelSource) -> None:
        self._exporter, self._other = exporter, other
        self.consumer, self.size = exporter.consumer, exporter.size
        self.places, self.prove = exporter.places, exporter.prove

    def write(self, source, out, probes) -> tuple[str, ...]:
        return self._exporter.write(self._other, out, probes)


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_says_what_it_was_compared_on_and_with_what(target: str, kl: ModelSource, exports: Exports) -> None:
    exporter = EXPORTERS[target]()
    exported = exports("kl", target)
    folder = exported.out.parent
    assert left(folder) == sorted(path.name for path in exporter.places(exported.out))
    report = json.loads(exported.report.read_text())
    assert (report["target"], report["encoder_identity"]) == (exporter.consumer, kl.identity)
    assert {"torch", "diffusers"} <= report["versions"].keys()
    shapes = {tuple(comparison["shape"]) for comparison in report["comparisons"]} - {()}
    assert len({shape[2:] for shape in shapes}) >= 2
    assert {shape[0] for shape in shapes} == {1, 3, 5}
    images = {comparison["images"].split(":")[0] for comparison in report["comparisons"]}
    assert images - {"any images"} == {"held-out images of digits", "uniform noise"}
    assert all(0 <= each["max_abs_difference"] <= each["tolerance"] for each in report["comparisons"])
    # Every file but the report itself is in it, and is what it was.
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert there.keys() - report["files"].keys() == {exported.report.relative_to(folder).as_posix()}
    assert all(there[name].stat().st_size == file["bytes"] for name, file in report["files"].items())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["kl", "vq"])
def test_an_export_carries_no_path_of_this_machine(name: str, target: str, models: Path, exports: Exports) -> None:
    folder = exports(name, target).out.parent
    places = [str(place).encode() for place in (models, folder, Path(latent_ae.__file__).parent, Path(sys.prefix))]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for file in files:
        parts = [file.read_bytes()]
        if zipfile.is_zipfile(file):  # a .pt2
            with zipfile.ZipFile(file) as archive:
                parts += [archive.read(part) for part in archive.namelist()]
        assert [place for place in places if any(place in part for part in parts)] == [], file


@pytest.mark.parametrize("target", TARGETS)
def test_the_proof_tells_another_model(target: str, models: Path, exports: Exports) -> None:
    other = ModelSource.load(str(models / "other"))
    comparisons = (
        EXPORTERS[target]().prove(other, exports("kl", target).out, make_probes(other.model, None)).comparisons
    )
    outputs = [each for each in comparisons if each.shape]
    assert outputs
    assert not any(each.passed for each in outputs)


@pytest.mark.parametrize("target", FAST)
def test_an_export_of_another_model_fails_its_proof_and_leaves_nothing(
    target: str, tmp_path: Path, kl: ModelSource, models: Path
) -> None:
    other = ModelSource.load(str(models / "other"))
    with pytest.raises(ProofFailed, match=r"the largest difference is .*, tolerance .* \(and \d+ more\)$"):
        export(kl, place(tmp_path, target), Deceived(EXPORTERS[target](), other))
    assert left(tmp_path) == []


@pytest.mark.parametrize("target", EXPORTERS)
def test_what_the_consumer_cannot_load_leaves_nothing(target: str, tmp_path: Path, kl: ModelSource) -> None:
    exporter = EXPORTERS[target]()

    class Torn(Deceived):
        def write(self, source, out, probes) -> tuple[str, ...]:
            for path in exporter.places(out):
                if path.suffix == ".safetensors":
                    path.write_bytes(b"torn")
                else:
                    path.mkdir()
            return ()

    with pytest.raises(ProofFailed, match=f"{re.escape(exporter.consumer)} cannot use what was written: "):
        export(kl, place(tmp_path, target), Torn(exporter, kl))
    assert left(tmp_path) == []


@pytest.mark.parametrize("target", EXPORTERS)
def test_a_place_that_is_taken_is_left_as_it_is(target: str, tmp_path: Path, kl: ModelSource) -> None:
    exporter = EXPORTERS[target]()
    for number, taken in enumerate(exporter.places(place(tmp_path, target))):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = folder / taken.name / "mine" if taken.suffix != ".safetensors" else folder / taken.name
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
        with pytest.raises(PlaceTakenError, match="already exists: choose another name, or remove it"):
            export(kl, place(folder, target), exporter)
        assert left(folder) == [taken.name]
        assert file.read_text() == "mine"


@pytest.mark.parametrize("target", EXPORTERS)
def test_an_exporter_has_plain_options(target: str) -> None:
    exporter = EXPORTERS[target]()
    assert dataclasses.is_dataclass(exporter)
    json.dumps(vars(exporter))


@pytest.mark.parametrize("target", FAST)
def test_another_scale_than_the_models_fails_the_proof(target: str, tmp_path: Path, kl: ModelSource) -> None:
    other = load_autoencoder(kl.name)
    other.register_to_config(scaling_factor=0.18215)
    with pytest.raises(ProofFailed, match=r"scaling_factor for any images: the largest difference is 0\.318"):
        export(kl, place(tmp_path, target), Deceived(EXPORTERS[target](), ModelSource(kl.name, other, kl.identity)))
    assert left(tmp_path) == []
