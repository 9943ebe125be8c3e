"""Reconstruct and Decode as a visitor meets them; what the browser has is compared with the service to the bit."""

import csv
import dataclasses
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from latent_ae.inference import Codec
from latent_ae.io.latent_file.latents import read_latents, write_latents
from latent_ae.service import measures
from latent_ae.service.inspection import difference_map
from latent_ae.service.results import Baseline
from tests.app.browser.conftest import MISSING, App

pytest.importorskip("playwright", reason=MISSING)

from playwright.sync_api import expect

from tests.app.browser.visitor import Visitor, as_shown
from tests.app.pictures import read

LATENTS = "Latent file (.safetensors, .latent)"


def test_what_is_shown_is_what_the_decoder_gave(app: App, visitor: Visitor, photo: Path) -> None:
    want = app.service.reconstruct(photo)
    visitor.reconstruct(photo)
    visitor.compared()
    original, reconstruction = visitor.pictures(visitor.page.locator("pixel-viewer"))
    assert np.array_equal(original, as_shown(want.original))
    assert np.array_equal(reconstruction, as_shown(want.reconstructed))
    (difference,) = visitor.pictures(visitor.part("Difference"))
    assert np.array_equal(difference, as_shown(difference_map(*want.previews, tolerance=4, gain=8)))
    beside = visitor.pictures(visitor.part("Side by side"))
    baselines = app.service.baselines(want)
    shown = [want.original, want.reconstructed, *(each.image for each in baselines)]
    assert len(beside) == len(shown) == 4
    assert all(np.array_equal(got, as_shown(image)) for got, image in zip(beside, shown, strict=True))
    channels = visitor.pictures(visitor.part("Latents"))
    images = app.service.channel_images(want.encoded.latents, model="run")
    assert all(np.array_equal(got, as_shown(image)) for got, image in zip(channels, images, strict=True))
    assert visitor.said == []
    assert visitor.hosts == {"127.0.0.1"}


def test_a_new_tolerance_redraws_the_difference_without_the_model(app: App, visitor: Visitor, photo: Path) -> None:
    visitor.reconstruct(photo)
    shown = visitor.part("Difference").locator("img")
    before, requests = shown.get_attribute("src"), app.service.stats().requests["reconstruct", "ok"]
    visitor.page.get_by_label("range slider for Tolerance").focus()
    visitor.page.keyboard.press("End")
    expect(shown).not_to_have_attribute("src", before)
    want = app.service.reconstruct(photo)
    got = visitor.fetch(shown)
    assert np.array_equal(got, as_shown(difference_map(*want.previews, tolerance=64, gain=8)))
    assert app.service.stats().requests["reconstruct", "ok"] == requests + 1  # that of this test


def test_latents_are_taken_home_and_brought_back(app: App, visitor: Visitor, photo: Path, tmp_path: Path) -> None:
    visitor.reconstruct(photo)
    reconstruction = visitor.pictures(visitor.page.locator("pixel-viewer"))[1]
    assert np.array_equal(read(visitor.download("Download the reconstruction", tmp_path)), reconstruction)
    small = visitor.download("Download the latents in float16", tmp_path)
    (tensor,) = (each for name, each in safetensors.torch.load_file(small).items() if name == "latent_tensor")
    counted = visitor.page.get_by_text("as latents in float16").inner_text()
    assert f"{2 * tensor.numel():,} bytes" in counted
    assert tensor.dtype == torch.float16
    file = visitor.download("Download the latents in float32", tmp_path)
    assert file.suffix == ".safetensors"
    assert read_latents(file).encoder == app.service.models()[0].encoder
    visitor.open("Decode")
    visitor.upload(file, LATENTS)
    visitor.press("Decode")
    visitor.page.get_by_text("37 \N{MULTIPLICATION SIGN} 21 pixels, decoded by run").wait_for()
    (decoded,) = visitor.pictures(visitor.part("Image"))
    assert np.array_equal(decoded, reconstruction)


def test_the_latents_just_made_are_decoded_at_one_click(app: App, visitor: Visitor, photo: Path) -> None:
    visitor.reconstruct(photo)
    reconstruction = visitor.pictures(visitor.page.locator("pixel-viewer"))[1]
    visitor.press("Decode these latents")
    visitor.page.get_by_text("37 \N{MULTIPLICATION SIGN} 21 pixels, decoded by run").wait_for()
    expect(visitor.page.get_by_role("tab", name="Decode", exact=True)).to_have_attribute("aria-selected", "true")
    (decoded,) = visitor.pictures(visitor.part("Image"))
    assert np.array_equal(decoded, reconstruction)


def test_latents_of_another_encoder_are_refused_with_both_identities(
    app: App, visitor: Visitor, photo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "other.safetensors"
    file.write_bytes(app.service.encode(photo).file)
    visitor.open("Decode")
    visitor.upload(file, LATENTS)
    visitor.page.get_by_label("Decode with").click()
    visitor.page.get_by_role("option", name="tiny-vq").click()
    visitor.press("Decode")
    message = visitor.page.get_by_role("alert").first
    message.wait_for()
    told = visitor.told()
    assert all(model.encoder[:16] in told for model in app.service.models())


def test_latents_of_another_program_are_decoded_by_the_model_that_is_chosen(
    app: App, visitor: Visitor, photo: Path, tmp_path: Path
) -> None:
    encoded = app.service.encode(photo, model="run")
    file = tmp_path / "comfy.latent"
    marker = torch.empty(0)
    safetensors.torch.save_file({"latent_tensor": encoded.latents.tensor, "latent_format_version_0": marker}, file)
    visitor.open("Decode")
    visitor.upload(file, LATENTS)
    visitor.page.get_by_label("Latents of another program").check()
    visitor.press("Decode")
    visitor.page.locator(".status:visible").get_by_text("Foreign latents do not say").wait_for()
    assert visitor.told() == "Foreign latents do not say which model decodes them: name one."
    visitor.page.get_by_label("Decode with").click()
    visitor.page.get_by_role("option", name="run").click()
    visitor.press("Decode")
    visitor.page.get_by_text("Taken as raw latents of run").wait_for()
    (decoded,) = visitor.pictures(visitor.part("Image"))
    whole = app.service.decode(file, model="run", foreign=True).images[0]
    assert np.array_equal(decoded, as_shown(whole))


def test_several_images_of_one_file_are_all_decoded(app: App, visitor: Visitor, tmp_path: Path) -> None:
    ones = [app.service.encode(digit).latents for digit in app.digits]
    file = tmp_path / "four.safetensors"
    both = dataclasses.replace(ones[0], tensor=torch.cat([each.tensor for each in ones]), logvar=None, sources=())
    write_latents(file, both)
    visitor.open("Decode")
    visitor.upload(file, LATENTS)
    visitor.press("Decode")
    visitor.page.get_by_text("4 images of").wait_for()
    got = visitor.pictures(visitor.part("Images"))
    want = app.service.decode(file).images
    assert all(np.array_equal(a, as_shown(b)) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(("data", "word"), [(b"\x89PNG\r\n\x1a\nand no more", "PNG"), (b"<svg/>", "upload")])
def test_a_bad_file_is_told_on_the_page(visitor: Visitor, photo: Path, tmp_path: Path, data: bytes, word: str) -> None:
    visitor.reconstruct(photo)
    bad = tmp_path / "bad.png"
    bad.write_bytes(data)
    visitor.press("Remove Image")
    visitor.upload(bad)
    visitor.page.locator(".status:visible [role=alert]").wait_for()
    told = visitor.told()
    assert told.endswith(".")
    assert word in told
    expect(visitor.page.locator(".toast-body")).to_have_count(0)  # it is shown in its place
    expect(visitor.page.locator("pixel-viewer")).to_be_hidden()


def test_nothing_chosen_is_told(visitor: Visitor) -> None:
    visitor.press("Remove Image")
    visitor.press("Reconstruct")
    visitor.page.locator(".status:visible [role=alert]").wait_for()
    assert visitor.told() == "There is no image yet: choose one first."


def test_models_are_compared_in_one_table(app: App, visitor: Visitor, photo: Path, tmp_path: Path) -> None:
    visitor.page.get_by_label("tiny-vq").check()
    visitor.reconstruct(photo)
    visitor.compared()
    rows = visitor.page.locator("figure.table tbody tr >> visible=true").all_inner_texts()
    with visitor.download("Download the table (CSV)", tmp_path).open(newline="") as file:
        saved = list(csv.DictReader(file))
    assert [row["form"] for row in saved] == [row.split("\t")[0] for row in rows]
    own, other = (app.service.reconstruct(photo, model=name) for name in ("run", "tiny-vq"))
    named = {row["form"]: row for row in saved}
    for made in (own, other):
        row = named[f"{made.model}: {made.sizes[1].what}"]
        assert float(row["psnr_db"]) == made.metrics["PSNR"]
        assert int(row["bytes"]) == made.sizes[1].bytes
    assert int(saved[0]["bytes"]) == photo.stat().st_size  # the upload came unchanged
    beside = visitor.pictures(visitor.part("Side by side"))
    assert np.array_equal(beside[2], as_shown(other.reconstructed))


def test_any_two_of_all_models_are_compared_in_the_viewer(app: App, visitor: Visitor, photo: Path) -> None:
    visitor.open("Compare")
    visitor.upload(photo)
    visitor.page.get_by_text("pixels by 2 models in").wait_for()
    run, vq = app.service.compare(photo)
    seen = visitor.page.locator("pixel-viewer >> visible=true")
    names = ["Original in grey", "run", "tiny-vq", "Original in colour"]
    assert seen.locator("select.left option").all_inner_texts() == names
    seen.locator("select.left").select_option("run")
    seen.locator("select.right").select_option("tiny-vq")
    expect(seen.locator("img.left")).to_have_attribute("alt", re.compile("^run, .* dB, .*in grey$"))
    left, right = visitor.pictures(seen)
    assert np.array_equal(left, as_shown(run.made.reconstructed))
    assert np.array_equal(right, as_shown(vq.made.reconstructed))
    rows = visitor.page.locator("figure.table:visible tbody tr").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows] == [["run", "grey"], ["tiny-vq", "colour"]]


def test_another_model_of_the_page_takes_the_first_place(app: App, visitor: Visitor, photo: Path) -> None:
    visitor.page.get_by_label("Model").click()
    visitor.page.get_by_role("option", name="tiny-vq").click()
    visitor.page.get_by_text("codebook of 32").wait_for()
    expect(visitor.page.get_by_role("checkbox")).to_have_count(1)
    expect(visitor.page.get_by_role("checkbox", name="run", exact=True)).to_be_visible()
    visitor.reconstruct(photo)
    want = app.service.reconstruct(photo, model="tiny-vq")
    assert np.array_equal(visitor.pictures(visitor.page.locator("pixel-viewer"))[1], as_shown(want.reconstructed))


def test_cancel_ends_the_work(app: App, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object, tick: Callable[[float], None], **__: object) -> None:
        while True:
            tick(0.0)
            time.sleep(0.01)

    def cancelled() -> int:
        return app.service.stats().requests.get(("reconstruct", "cancelled"), 0)

    before = cancelled()
    results = visitor.page.locator(".answers:visible > .column")
    expect(results).not_to_have_class(re.compile("old"))
    monkeypatch.setattr(Codec, "encode", endless)
    visitor.upload(app.digits[2])  # starts it
    visitor.page.get_by_text("Encoding and decoding").wait_for()
    expect(results).to_have_class(re.compile("old"))
    visitor.press("Cancel")
    visitor.page.get_by_text("Cancelled.").wait_for()
    expect(visitor.page.get_by_role("button", name="Reconstruct", exact=True)).to_be_enabled()
    for _ in range(200):
        if cancelled() > before and not app.service.stats().running:
            break
        visitor.page.wait_for_timeout(100)
    assert cancelled() == before + 1
    assert app.service.stats().running == 0
    expect(results).not_to_have_class(re.compile("old"))  # those of the first example are there and hold


def test_the_first_example_is_there_and_computed_once(app: App, visit: Callable[..., Visitor]) -> None:
    def requests() -> int:
        return sum(count for (name, _), count in app.service.stats().requests.items() if name == "reconstruct")

    one = visit()
    want = app.service.reconstruct(app.digits[0])
    assert np.array_equal(one.pictures(one.page.locator("pixel-viewer"))[1], as_shown(want.reconstructed))
    one.compared()
    before = requests()
    other = visit()
    assert np.array_equal(other.pictures(other.page.locator("pixel-viewer"))[1], as_shown(want.reconstructed))
    assert requests() == before


def test_an_example_and_an_upload_run_at_once(app: App, visitor: Visitor, photo: Path) -> None:
    visitor.page.get_by_role("button", name="Example 3").click()
    want = app.service.reconstruct(app.digits[2])
    slider = visitor.page.locator("pixel-viewer img").last
    before = slider.get_attribute("src")
    expect(slider).not_to_have_attribute("src", before)
    assert np.array_equal(visitor.fetch(slider), as_shown(want.reconstructed))
    visitor.upload(photo)
    visitor.page.get_by_text("this is a colour picture of 37 \N{MULTIPLICATION SIGN} 21 pixels").wait_for()
    assert np.array_equal(visitor.fetch(slider), as_shown(app.service.reconstruct(photo).reconstructed))


def test_the_reconstruction_does_not_wait_for_jpeg_and_webp(
    app: App, visitor: Visitor, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, go_on = measures.baselines, threading.Event()

    def held(*arguments: object) -> tuple[Baseline, ...]:
        while not go_on.wait(0.2):
            arguments[-1](0.25)
        return found(*arguments)

    monkeypatch.setattr(measures, "baselines", held)
    visitor.reconstruct(photo)
    beside = visitor.part("Side by side").locator("img")
    expect(beside).to_have_count(2)
    visitor.page.get_by_text("Searching for JPEG and WebP files of this size - 25").wait_for()
    expect(visitor.page.get_by_role("button", name="Reconstruct", exact=True)).to_be_enabled()
    go_on.set()
    visitor.compared()
    expect(beside).to_have_count(4)


def test_results_are_marked_when_another_model_is_chosen(visitor: Visitor, photo: Path) -> None:
    visitor.reconstruct(photo)
    mark = visitor.page.get_by_text("These results are of run. Press Reconstruct for those of tiny-vq.")
    for name in ("tiny-vq", "run"):
        visitor.page.get_by_label("Model").click()
        visitor.page.get_by_role("listbox").get_by_role("option", name=name).click()
        mark.wait_for(state="visible" if name == "tiny-vq" else "hidden")


def test_visitors_do_not_see_each_other(app: App, visit: Callable[..., Visitor], photo: Path) -> None:
    one, other = visit(), visit()
    one.reconstruct(photo)
    example = as_shown(app.service.reconstruct(app.digits[0]).reconstructed)
    for _ in range(2):
        assert np.array_equal(other.pictures(other.page.locator("pixel-viewer"))[1], example)
        other.page.reload()
        other.settled()
    assert "encoded and decoded" in one.told()
