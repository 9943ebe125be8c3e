"""The page and the endpoints over a model of numbers: pictures are previews, and downloads hold every value."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import tifffile
from gradio_client import Client, handle_file
from PIL import Image

from latent_ae.app.page import create_demo, model_facts
from latent_ae.app.tabs import comparison
from latent_ae.app.tabs.job import Run
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.io.rasters import read_raster
from latent_ae.service.service import Service
from tests.app.conftest import served
from tests.inference.numbers import lossless

pytestmark = pytest.mark.usefixtures("gradio_folder")
BANDS = PixelFormat(5, numbers=True, dtype="float32", ranges=((0.0, 2.0),), rgb=(3, 2, 1), unit="reflectance")
IMAGE = (np.random.default_rng(0).random((24, 20, 5), np.float32) * 2).astype(np.float32)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    deep = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),))
    forms = {"bands": BANDS, "grey": PixelFormat.picture(1), "deep": deep}
    with Service({name: lossless(form) for name, form in forms.items()}) as made:
        yield made


@pytest.fixture(scope="module")
def demo(service: Service, gradio_folder: Path) -> gr.Blocks:
    return create_demo(service)


@pytest.fixture
def upload(gradio_folder: Path) -> str:
    tifffile.imwrite(gradio_folder / "in.tif", IMAGE, photometric="minisblack", planarconfig="contig")
    return str(gradio_folder / "in.tif")


def called(demo: gr.Blocks, name: str, *values: object) -> dict:
    (handler,) = [event.fn for event in demo.fns.values() if event.name == name and event.api_visibility == "private"]
    run = Run()
    run.begin()
    return handler(run, gr.Progress(), *values)


def of_kind(found: dict, kind: type) -> list:
    values = [value for component, value in found.items() if isinstance(component, kind)]
    return [value["value"] if isinstance(value, dict) else value for value in values]


def test_a_file_of_numbers_is_chosen_for_a_model_of_numbers(demo: gr.Blocks) -> None:
    boxes = {block.label: block for block in demo.blocks.values() if isinstance(block, gr.Image | gr.File)}
    assert not boxes["Image"].visible
    assert boxes["Image (a file of numbers: TIFF, NPY, DICOM, ...)"].visible
    switch = next(event.fn for event in demo.fns.values() if event.name == "_visible")
    assert [update["visible"] for update in switch("grey")] == [True, False]
    assert [update["visible"] for update in switch("bands")] == [False, True]


def test_the_reconstruction_downloads_with_all_channels_and_its_previews_are_pictures(
    demo: gr.Blocks, upload: str
) -> None:
    found = called(demo, "reconstruct", None, "bands", [], 0, 4, 8, None, upload)
    (shown,) = (value for value in found.values() if str(value).startswith("<pixel-viewer>"))
    original, reconstruction = re.findall(r'href="gradio_api/file=([^"]*)"', shown)
    assert np.array_equal(np.asarray(Image.open(reconstruction)), BANDS.preview(IMAGE))
    (whole,) = [path for path in of_kind(found, gr.DownloadButton) if str(path).endswith(".tif")]
    raster = read_raster(Path(whole))
    np.testing.assert_allclose(raster.values, IMAGE, atol=1e-6)
    assert raster.unit == "reflectance"
    grey = called(demo, "reconstruct", None, "grey", [], 0, 4, 8, original, None)
    assert [path for path in of_kind(grey, gr.DownloadButton) if str(path).endswith("reconstruction.png")]


def test_decoded_images_download_with_all_channels(
    demo: gr.Blocks, service: Service, upload: str, gradio_folder: Path
) -> None:
    latents = gradio_folder / "in.safetensors"
    latents.write_bytes(service.encode(Path(upload), model="bands").file)
    ((path,),) = of_kind(called(demo, "decode", str(latents), "bands", False), gr.File)
    np.testing.assert_allclose(read_raster(Path(path)).values, IMAGE, atol=1e-6)


def test_a_ramp_of_16_bits_keeps_its_16_bits_over_http(service: Service, gradio_folder: Path, tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.save(tmp_path / "ramp.npy", ramp)
    with served(service) as running:
        client = Client(running.url, verbose=False, download_files=tmp_path / "downloads")
        image, file, numbers = client.predict(
            image=handle_file(tmp_path / "ramp.npy"), model="deep", api_name="/reconstruct"
        )
        ((decoded,), _) = client.predict(latents=handle_file(file), model="deep", api_name="/decode")
        assert [each["pixel_format"]["channels"] for each in client.predict(api_name="/models")] == [5, 1, 1]
        client.close()
    for path in (image, decoded):
        assert np.array_equal(np.asarray(Image.open(path)), ramp)
    assert numbers["metrics"]["MAX"] == 0


def test_errors_are_shown_in_the_units_of_the_data(service: Service, upload: str) -> None:
    made = [service.reconstruct(Path(upload), model="bands")]
    rows = comparison.rows(made, ())
    html = comparison.as_html(rows, made, ())
    assert "Largest error" in html
    assert "Errors are in reflectance." in html
    header, _, measured = list(csv.reader(io.StringIO(comparison.as_csv(rows).decode())))[:3]
    assert header[-3:] == ["mae", "rmse", "max_error"]
    assert 0 <= float(measured[-1]) < 1e-6
    facts = model_facts(service.models()[0])
    assert "5 channels, float32 in 0..2 reflectance (files of numbers)" in facts
    assert "channels 3, 2, 1 of 5 in 8 bits" in facts
    assert "Shown" not in model_facts(service.models()[1])
