"""The page without a browser: what its parts are, and the small things behind it."""

import ast
import csv
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageSequence

from latent_ae.app import files
from latent_ae.app.page import create_demo, model_facts
from latent_ae.app.storage import files_under
from latent_ae.app.tabs import comparison, markup
from latent_ae.app.tabs.example_results import ExampleResults
from latent_ae.app.tabs.examples import example_images
from latent_ae.app.tabs.inspect import card_text
from latent_ae.app.tabs.interpolate import suits_grid
from latent_ae.app.tabs.job import Run
from latent_ae.inference import Codec
from latent_ae.service.errors import BadRequest
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.results import Reconstruction
from latent_ae.service.service import Service
from tests.app.conftest import TinyModels
from tests.app.pictures import pixels, png, read

APP = Path(__file__).parents[2] / "latent_ae" / "app"
pytestmark = pytest.mark.usefixtures("gradio_folder")
PUBLIC = {"models", "encode", "decode", "reconstruct", "compare", "sample", "interpolate"}


@pytest.fixture(scope="module")
def demo(service: Service, gradio_folder: Path) -> gr.Blocks:
    paths = [gradio_folder / f"example-{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(png(pixels(16, 16, seed=number)))
    return create_demo(service, examples=ExampleResults(service, paths))


@pytest.fixture
def made(service: Service) -> Reconstruction:
    return service.reconstruct(png(pixels(24, 20)), model="tiny-kl")


def of_kind(demo: gr.Blocks, *kinds: type) -> list:
    return [block for block in demo.blocks.values() if isinstance(block, kinds)]


def test_every_picture_of_the_page_is_lossless(demo: gr.Blocks) -> None:
    shown = of_kind(demo, gr.Image, gr.Gallery)
    assert len(shown) > 10
    assert {block.format for block in shown} == {"png"}


def test_every_setting_has_a_label_and_a_sentence_that_explains_it(demo: gr.Blocks) -> None:
    settings = of_kind(demo, gr.Slider, gr.Number, gr.Dropdown, gr.Radio, gr.CheckboxGroup)
    assert len(settings) >= 11
    for setting in settings:
        assert setting.label
        assert setting.info.endswith("."), setting.label


def test_only_the_endpoints_are_public(demo: gr.Blocks) -> None:
    public = {event.api_name for event in demo.fns.values() if event.api_visibility != "private"}
    assert public == PUBLIC


def test_the_app_leaves_models_to_the_service() -> None:
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("torch", "diffusers")], path.name


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\nand no more", b"", b"<svg/>"])
def test_an_upload_arrives_as_the_file_that_was_chosen(demo: gr.Blocks, tmp_path: Path, data: bytes) -> None:
    broken = tmp_path / "photo.svg"
    broken.write_bytes(data)
    uploads = [block for block in of_kind(demo, gr.Image, gr.File) if block.interactive is not False]
    assert len(uploads) == 10  # reconstruct, compare, decode, interpolate 2 + 4, inspect
    for upload in uploads:
        got = upload.preprocess(upload.data_model(path=str(broken), orig_name="photo.svg"))
        assert got == str(broken)
        assert upload.preprocess(None) is None
    assert broken.read_bytes() == data


def test_nothing_chosen_is_told_with_what_is_missing() -> None:
    with pytest.raises(BadRequest, match="no latent file yet"):
        files.chosen(None, "latent file")


@pytest.mark.parametrize("shape", [(9, 7, 1), (9, 7, 3)])
def test_a_picture_reaches_the_browser_with_its_pixels(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = Path(files.png(image, "name"))
    assert path.name == "name.png"
    assert np.array_equal(read(path), np.broadcast_to(image, (9, 7, 3)))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_goes_there_and_back_without_loss(count: int, channels: int) -> None:
    frames = list(np.random.default_rng(count).integers(0, 256, (count, 12, 10, channels), np.uint8))
    with Image.open(io.BytesIO(files.animation(frames))) as moving:
        assert moving.format == "PNG"
        assert moving.info.get("loop", 0) == 0
        got = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(moving)]
    want = [*frames, *frames[-2:0:-1]]
    assert len(got) == len(want)
    assert all(np.array_equal(a, np.broadcast_to(b, (12, 10, 3))) for a, b in zip(got, want, strict=True))


def handler(demo: gr.Blocks, name: str) -> Callable[..., dict]:
    (found,) = [event.fn for event in demo.fns.values() if event.name == name and event.api_visibility == "private"]
    return found


def test_a_reconstruction_writes_each_picture_once(demo: gr.Blocks, gradio_folder: Path) -> None:
    image = pixels(24, 20)
    upload = gradio_folder / "upload.png"
    upload.write_bytes(png(image))
    before = files_under(gradio_folder)
    run = Run()
    run.begin()
    found = handler(demo, "reconstruct")(run, gr.Progress(), None, "tiny-kl", [], 0, 4, 8, str(upload))
    (key,) = [value for value in found.values() if isinstance(value, str) and len(value) == 22]
    assert len(shown_beside(found)) == 2
    beside = shown_beside(handler(demo, "compare")(run, run.begun, gr.Progress(), key))
    pictures = [Path(path) for path in files_under(gradio_folder) - before if path.endswith(".png")]
    assert [path.name for path in pictures if np.array_equal(read(path), image)] == ["original.png"]
    assert beside[:2] == shown_beside(found)
    (seen,) = (value for value in found.values() if str(value).startswith("<pixel-viewer>"))
    assert re.findall(r'href="gradio_api/file=([^"]*)"', seen) == beside[:2]
    assert len(beside) == 4
    assert beside[1] in found.values()  # the download of the reconstruction


def shown_beside(updates: dict) -> list[str]:
    return next(
        [path for path, _ in value["value"]]
        for component, value in updates.items()
        if isinstance(component, gr.Gallery) and value["value"][0][1] == "Original"
    )


@pytest.mark.parametrize(("samples", "values"), [(64, (9, 16, 6)), (9, (9, 9, 3)), (8, (8, 8)), (4, (4, 4))])
def test_what_is_set_at_first_is_within_the_limits(
    codecs: dict[str, Codec], samples: int, values: tuple[int, ...]
) -> None:
    with Service({"tiny-kl": codecs["tiny-kl"]}, limits=ServiceLimits(samples=samples)) as service:
        page = create_demo(service)
    sliders = {block.label: block for block in of_kind(page, gr.Slider)}
    assert tuple(sliders[label].value for label in ("Steps", "Images", "Side") if label in sliders) == values
    assert all(slider.minimum <= slider.value <= slider.maximum for slider in sliders.values())


def test_the_table_has_a_row_for_each_form_of_the_image(service: Service, made: Reconstruction) -> None:
    other = service.reconstruct(png(pixels(24, 20)), model="tiny-vq")
    baselines = service.baselines(made)
    rows = comparison.rows([made, other], baselines)
    kl, codes = made.sizes[1:], other.sizes[1:]
    assert [row.what for row in rows[1:-2]] == [f"tiny-kl: {size.what}" for size in kl] + [
        f"tiny-vq: {size.what}" for size in codes
    ]
    assert rows[0].bytes == len(png(pixels(24, 20)))
    assert rows[1].metrics is made.metrics
    assert rows[2].metrics == {}
    assert rows[-1].bits_per_pixel == baselines[-1].bytes * 8 / (24 * 20)


def test_the_csv_says_what_the_table_says_in_full(made: Reconstruction) -> None:
    rows = comparison.rows([made], ())
    upload, first, *_ = csv.DictReader(io.StringIO(comparison.as_csv(rows).decode()))
    assert upload["psnr_db"] == ""
    assert float(first["psnr_db"]) == made.metrics["PSNR"]
    assert float(first["bits_per_pixel"]) == made.sizes[1].bits_per_pixel
    assert int(first["bytes"]) == made.sizes[1].bytes
    shown = comparison.as_html(rows, [made], ())
    assert f"{made.metrics['PSNR']:.2f}" in shown
    assert "LPIPS: not asked for." in shown.replace("&#x27;", "'") or made.notes["LPIPS"][:20] in shown


def test_a_baseline_that_cannot_be_made_as_small_is_told(service: Service, made: Reconstruction) -> None:
    baselines = [dataclasses.replace(each, reached=each.name != "JPEG") for each in service.baselines(made)]
    assert "even the lowest quality of JPEG takes more" in comparison.as_html(
        comparison.rows([made], baselines), [made], baselines
    )


def test_texts_are_escaped() -> None:
    evil = "<b onclick='x'>"
    pieces = [
        markup.note(evil),
        markup.error(evil),
        markup.title(evil, evil),
        markup.placeholder(evil, evil),
        markup.facts([(evil, evil, evil)]),
        markup.figures([(evil, evil, evil)]),
        markup.table(evil, [evil], [[evil, evil]], notes=[evil], meanings={evil: evil}),
        markup.histogram(evil, [(-1.0, 0.5, 0.5), (1.0, 0.5, 0.5)], seen=evil, expected="N"),
        markup.columns(evil, [1, 2], seen=evil),
    ]
    assert not [piece for piece in pieces if "<b " in piece]


def test_names_have_their_meanings_as_tooltips(made: Reconstruction) -> None:
    table = comparison.as_html(comparison.rows([made], ()), [made], ())
    assert '<th scope="col" title="Higher is closer; 3 dB are half the squared error.">PSNR (dB)</th>' in table
    assert '<th scope="col" title="1 is the same structure.">SSIM</th>' in table
    assert '<th scope="col">Bytes</th>' in table
    assert '<div title="Names.">' in markup.facts([("Kind", "VQModel", "Names."), ("Images", "RGB", "")])


def test_bars_of_a_histogram_are_as_high_as_their_shares() -> None:
    drawn = markup.histogram("x", [(-1.0, 0.25, 0.5), (0.0, 0.5, 0.25), (1.0, 0.0, 0.25)], seen="a", expected="b")
    # 192 units are the highest share, 0.5
    assert [part.split('"')[0] for part in drawn.split('height="')[1:]] == ["96.00", "192.00", "0.00"]
    assert [part.split("<")[0] for part in drawn.split('">') if part.split("<")[0].lstrip("-").isdigit()] == [
        "-1",
        "0",
        "1",
    ]


def test_a_model_card_shows_its_own_pictures_and_names_others_instead_of_fetching_them() -> None:
    card = "# M\n![draws](draws.png) and ![][far] <IMG src='http://x/y.png'> stay.\n\n[link](http://x)"
    named = "# M\n*(picture: draws)* and *(picture: without a name)*  stay.\n\n[link](http://x)"
    assert card_text(card, {}) == named
    assert card_text(card, {"draws.png": "file=1"}) == named.replace("*(picture: draws)*", "![draws](file=1)")
    assert card_text(" ", {}) == "This model has no card."


def test_the_recipe_of_a_model_card_is_folded() -> None:
    recipe = "```yaml\nmodel:\n  preset: null\n```"
    folded = f"# M\n\n<details><summary>Recipe</summary>\n\n{recipe}\n\n</details>\n\n## More"
    assert card_text(f"# M\n\n## Recipe\n\n{recipe}\n\n## More", {}) == folded


def test_a_model_is_told_in_a_line(service: Service) -> None:
    told = model_facts(service.models()[0])
    assert "AutoencoderKL" in told
    assert "4x smaller" in told
    assert service.models()[0].encoder[:16] in told
    assert "codebook of 32" in model_facts(service.models()[1])


def test_a_grid_is_offered_for_small_latents_only(service: Service) -> None:
    info = dataclasses.replace(service.models()[0], factor=4)
    sizes = {32: True, 33: False, 256: False, None: False}
    assert {size: suits_grid(dataclasses.replace(info, native_size=size)) for size in sizes} == sizes


def test_examples_suit_the_model(tmp_path: Path) -> None:
    digits = example_images(tmp_path, channels=1, side=32)
    assert [read(path).shape for path in digits] == [(32, 32, 3)] * 4
    photos = example_images(tmp_path, channels=3, side=256)
    assert len(photos) == 4
    for path in photos:
        height, width, _ = read(path).shape
        assert height == width
        assert height >= 256
    assert not set(digits) & set(photos)


def test_the_page_can_be_made_of_one_model_and_without_examples(tiny_models: TinyModels, gradio_folder: Path) -> None:
    service = Service.load([str(tiny_models.vq)], perceptual=None)
    try:
        page = create_demo(service)
        assert [box.visible for box in of_kind(page, gr.CheckboxGroup)] == [False]
        assert not of_kind(page, gr.Dataset)
    finally:
        service.close()
