"""Models of any number of channels: exports are proven, and say what the pixels mean."""

import json
from pathlib import Path

import onnx
import pytest
from safetensors import safe_open

from latent_ae.config import ModelConfig
from latent_ae.export import EXPORTERS
from latent_ae.export.exporter import export
from latent_ae.export.source import ModelSource, read_single_file
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from tests.export.conftest import Run, place

BANDS = PixelFormat(5, numbers=True, dtype="uint16", ranges=((0.0, 4000.0),), rgb=(3, 2, 1), unit="reflectance")
ALPHA = PixelFormat.picture(4, alpha="premultiplied")


def written(folder: Path, form: PixelFormat) -> Path:
    config = ModelConfig(preset="tiny", image_channels=form.channels)
    build_autoencoder(config, seed=0, resolution=16).save_pretrained(folder)
    (folder / "pixel_format.json").write_text(form.to_json())
    return folder


@pytest.mark.parametrize(
    ("form", "target"), [(ALPHA, "diffusers"), *((BANDS, target) for target in EXPORTERS)], ids=["alpha", *EXPORTERS]
)
def test_an_export_carries_what_the_pixels_mean(form: PixelFormat, target: str, tmp_path: Path) -> None:
    source = ModelSource.load(str(written(tmp_path / "model", form)))
    exported = export(source, place(tmp_path, target), EXPORTERS[target]())
    report = json.loads(exported.report.read_text())
    assert PixelFormat.from_json(json.dumps(report["pixel_format"])) == form
    assert (exported.report.parent / "pixel_format.json").read_text() == form.to_json() + "\n"
    shown = {each["images"].partition(":")[0] for each in report["comparisons"] if each["shape"]}
    assert shown == {"uniform noise"} | (set() if form.numbers else {"held-out images of photos"})
    assert {each["shape"][1] for each in report["comparisons"] if each["shape"]} == {form.channels}
    if target == "onnx":
        metadata = {
            entry.key: entry.value for entry in onnx.load(exported.out / "vae_decoder/model.onnx").metadata_props
        }
        assert PixelFormat.from_json(metadata["latent_ae.pixel_format"]) == form
    elif target != "pt2":
        assert ModelSource.load(str(exported.out)).pixel_format == form


def test_a_single_file_knows_it_alone_and_its_import_says_it(tmp_path: Path) -> None:
    source = ModelSource.load(str(written(tmp_path / "model", BANDS)))
    file = export(source, place(tmp_path, "ldm"), EXPORTERS["ldm"]()).out
    with safe_open(file, "pt") as tensors:
        assert tensors.metadata()["latent_ae.pixel_format"] == BANDS.to_json()
    alone = file.rename(tmp_path / "alone.safetensors")
    export(read_single_file(alone), tmp_path / "imported", EXPORTERS["diffusers"]())
    assert ModelSource.load(str(tmp_path / "imported")).pixel_format == BANDS


def test_compat_says_what_values_are_and_where_there_are_no_pil_images(tmp_path: Path, run: Run) -> None:
    said = run("compat", written(tmp_path / "bands", BANDS))[1].splitlines()
    assert said[-1] == (
        f"its images are {BANDS.describe()}, which these programs give and take as values in [-1, 1]; "
        "pixel_format.json, which exports carry, says what these stand for"
    )
    row = next(number for number, line in enumerate(said) if "diffusers SDXL pipelines" in line)
    assert said[row].startswith("warn")
    assert said[row + 1].strip() == ('but images of 5 channels are no PIL images: ask pipelines for output_type="np"')
    assert "needs RGB images, got 5 channels" in next(line for line in said if "ComfyUI" in line)


def test_a_model_of_unknown_values_is_refused_in_a_line(tmp_path: Path, run: Run) -> None:
    (written(tmp_path / "model", BANDS) / "pixel_format.json").unlink()
    status, _, errors = run("export", "onnx", "--model", tmp_path / "model", "-o", tmp_path / "out")
    assert status == 2
    assert errors == [
        f"the model takes images of 5 channels, and {tmp_path / 'model'} has no pixel_format.json that says what their "
        "values are"
    ]
