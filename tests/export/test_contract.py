"""What holds for every exporter of the table."""

import argparse
import dataclasses
import json
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import latent_ae
from latent_ae.export import EXPORTERS, compat, rules
from latent_ae.export.compat import Loader
from latent_ae.export.exporter import Exporter, export
from latent_ae.export.proof import Probe, Proof, ProofFailed, answer, compare_answers, make_probes
from latent_ae.export.source import ModelSource, config_of, write_config
from latent_ae.io.atomic import PlaceTakenError
from latent_ae.models import load_autoencoder
from tests.export.conftest import Exports, Run, left, place

SLOW = ("onnx", "pt2")
"""half a minute of conversion each"""
FAST = [name for name in EXPORTERS if name not in SLOW]
TARGETS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in EXPORTERS]


class Deceived:
    """An exporter that is given another model to write than the one it is to prove."""

    def __init__(self, exporter: Exporter, other: ModelSource) -> None:
        self._exporter, self._other = exporter, other
        self.consumer, self.image_size = exporter.consumer, exporter.image_size
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
        EXPORTERS[target]()
        .prove(other, exports("kl", target).out, make_probes(other.model, other.pixel_format, None))
        .comparisons
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

    with pytest.raises(ProofFailed, match=f"{re.escape(exporter.consumer)} cannot load the export: "):
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


@dataclasses.dataclass(frozen=True)
class NumpyFile(Exporter):
    """A target that only this test knows: all weights in one .npz file, for readers with 2 latent channels."""

    compressed: bool = False

    summary = "one .npz file"
    out = ("npz", "the folder to create")
    consumer = "numpy"
    loaders: ClassVar = {"numpy.load": Loader("the .npz file", "run, numpy 2", rules=(rules.latent_channels(2),))}

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--compressed", action="store_true", help="compress the weights")

    def write(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> tuple[str, ...]:
        out.mkdir()
        save = np.savez_compressed if self.compressed else np.savez
        save(out / "weights.npz", **{name: tensor.numpy() for name, tensor in source.model.state_dict().items()})
        write_config(out, config_of(source.model))
        return ("rather large",)

    def prove(self, source: ModelSource, out: Path, probes: Sequence[Probe]) -> Proof:
        model = type(source.model).from_config(json.loads((out / "config.json").read_text())).eval()
        with np.load(out / "weights.npz") as weights:
            model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
        return Proof(
            "numpy.load(FILE)",
            [each for probe in probes for each in compare_answers(probe, answer(model, probe.pixels), probe.answer)],
        )


def options_of(name: str, folder: Path) -> list[str]:
    return ["export", name, "--model", str(folder / "kl"), "-o"]


def test_an_exporter_of_ones_own_has_its_proof_its_command_line_and_its_row_in_compat(
    models: Path, kl: ModelSource, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPORTERS, "numpy", NumpyFile)
    status, said, errors = run(*options_of("numpy", models), tmp_path / "npz", "--compressed")
    assert (status, errors) == (0, [])
    assert "warning: rather large" in said
    assert "numpy.load(FILE): the same to the last bit" in said
    report = json.loads((tmp_path / "npz/export_report.json").read_text())
    assert (report["target"], report["options"]) == ("numpy", {"compressed": True})
    assert report["files"].keys() == {"npz/config.json", "npz/weights.npz"}

    (row,) = [verdict for verdict in compat(kl.model) if verdict.consumer == "numpy.load"]
    assert (row.works, row.note, row.seen) == (True, "the .npz file", "run, numpy 2")
    status, said, _ = run("compat", models / "vq")
    (line,) = [line for line in said.splitlines() if "numpy.load" in line]
    assert line.startswith("no ")
    assert line.endswith("needs 2 latent channels, got 3 [run, numpy 2]")

    other = ModelSource.load(str(models / "other"))
    with pytest.raises(ProofFailed, match="the largest difference is"):
        export(kl, tmp_path / "false", Deceived(NumpyFile(), other))
    assert left(tmp_path) == ["npz"]


@pytest.mark.parametrize("target", EXPORTERS)
def test_an_exporter_has_a_command_with_help_and_an_example(
    target: str, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    with pytest.raises(SystemExit) as status:
        run("export", target, "--help")
    assert status.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    summary = EXPORTERS[target].summary
    assert f"{summary[0].upper()}{summary[1:]}. The export is loaded" in out
    assert f"example: latent-ae export {target} --model runs/kl-photos/model -o {EXPORTERS[target].out[0]}" in out


@pytest.mark.parametrize("target", EXPORTERS)
def test_every_option_on_the_command_line_is_a_field(target: str) -> None:
    parser = argparse.ArgumentParser()
    EXPORTERS[target].add_options(parser)
    assert vars(parser.parse_args([])).keys() <= {field.name for field in dataclasses.fields(EXPORTERS[target])}


def test_the_rows_of_compat_are_the_loaders_of_the_table(kl: ModelSource) -> None:
    rows = [verdict.consumer for verdict in compat(kl.model)]
    assert rows == [name for exporter in EXPORTERS.values() for name in exporter.loaders]
    assert len(set(rows)) == len(rows)
    assert all(exporter.loaders for exporter in EXPORTERS.values())


@pytest.mark.parametrize("target", FAST)
def test_another_scale_than_the_models_fails_the_proof(target: str, tmp_path: Path, kl: ModelSource) -> None:
    other = load_autoencoder(kl.name)
    other.register_to_config(scaling_factor=0.18215)
    with pytest.raises(ProofFailed, match=r"scaling_factor for any images: the largest difference is 0\.318"):
        export(kl, place(tmp_path, target), Deceived(EXPORTERS[target](), ModelSource(kl.name, other, kl.identity)))
    assert left(tmp_path) == []
