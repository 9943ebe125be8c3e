"""Sample, Interpolate and Inspect as a visitor meets them."""

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageSequence

from latent_ae.io.image import image_grid
from tests.app.browser.conftest import MISSING, App

pytest.importorskip("playwright", reason=MISSING)

from playwright.sync_api import expect

from tests.app.browser.visitor import Visitor, as_shown


def same(got: list, want: tuple) -> bool:
    return len(got) == len(want) and all(np.array_equal(a, as_shown(b)) for a, b in zip(got, want, strict=True))


def test_draws_are_those_of_the_seed(app: App, visitor: Visitor) -> None:
    visitor.open("Sample")
    visitor.page.get_by_label("N(0, 1)").check()
    visitor.press("Draw")
    draws = visitor.part("Draws from the prior")
    expect(draws.locator("img")).to_have_count(16)
    assert same(visitor.pictures(draws), app.service.sample(count=16, seed=0).images)
    assert visitor.told()
    seed = visitor.page.get_by_label("Seed", exact=True)
    visitor.press("New seed")
    expect(seed).not_to_have_value("0")
    first = draws.locator("img").first
    before = first.get_attribute("src")
    visitor.press("Draw")
    expect(first).not_to_have_attribute("src", before)
    assert same(visitor.pictures(draws), app.service.sample(count=16, seed=int(seed.input_value())).images)


def test_a_learned_prior_is_offered_where_there_is_one(app: App, visitor: Visitor) -> None:
    visitor.open("Sample")
    expect(visitor.page.get_by_label("Learned")).to_be_checked()
    visitor.press("Draw")
    draws = visitor.part("Draws from the prior")
    expect(draws.locator("img")).to_have_count(16)
    learned = app.service.sample(count=16, seed=0, prior="learned").images
    assert same(visitor.pictures(draws), learned)
    assert not same(visitor.pictures(draws), app.service.sample(count=16, seed=0).images)
    expect(visitor.page.get_by_label("Top-p")).to_have_count(0)


def test_a_prior_of_codes_draws_the_class_and_the_share_that_are_chosen(app: App, visitor: Visitor) -> None:
    visitor.open("Sample")
    page = visitor.page
    page.get_by_label("Model").click()
    page.get_by_role("option", name="tiny-vq").click()
    page.get_by_text("codebook of 32").wait_for()
    page.get_by_label("Class").click()
    page.get_by_role("option", name="3", exact=True).click()
    page.get_by_role("spinbutton", name=re.compile("Top-p")).fill("0.5")
    visitor.press("Draw")
    draws = visitor.part("Draws from the prior")
    expect(draws.locator("img")).to_have_count(16)
    chosen = app.service.sample(model="tiny-vq", count=16, prior="learned", label=3, top_p=0.5).images
    assert same(visitor.pictures(draws), chosen)
    page.get_by_label("N(0, 1)").check()
    expect(page.get_by_label("Class")).to_have_count(0)
    visitor.press("Draw")
    page.get_by_text("learns no prior").wait_for()


def test_an_interpolation_is_shown_step_by_step_and_moving(app: App, visitor: Visitor) -> None:
    visitor.open("Interpolate")
    visitor.upload(app.digits[0], "From")
    visitor.upload(app.digits[1], "To")
    visitor.page.get_by_label("Spherical").check()
    visitor.press("Interpolate")
    strip = visitor.part("Steps")
    expect(strip.locator("img")).to_have_count(9)
    want = app.service.interpolate(*app.digits[:2], steps=9, spherical=True).images
    assert same(visitor.pictures(strip), want)
    with Image.open(io.BytesIO(visitor.bytes_of(visitor.part("Animation").locator("img")))) as moving:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(moving)]
    assert same(frames, (*want, *want[-2:0:-1]))


def test_a_grid_between_four_images_is_offered_where_latents_are_small(app: App, visitor: Visitor) -> None:
    visitor.open("Interpolate")
    expect(visitor.page.locator(".controls:visible .image-frame img")).to_have_count(6)  # from, to, and the corners
    visitor.press("Decode the grid")
    grid = visitor.part("Grid between the four images")
    grid.locator("img").wait_for()
    want = app.service.interpolate_grid(app.digits, side=6).images
    (got,) = visitor.pictures(grid)
    assert same([got], (image_grid([want[first : first + 6] for first in range(0, 36, 6)]),))


def test_an_image_is_inspected(app: App, visitor: Visitor) -> None:
    visitor.open("Inspect")
    visitor.upload(app.digits[0])
    visitor.press("Inspect")
    visitor.page.get_by_text("Scaled latents of this image").wait_for()
    want = app.service.inspect(app.digits[0])
    expect(visitor.page.locator("figure.chart:visible rect")).to_have_count(len(want.histogram))
    rows = visitor.page.locator("figure.table:visible tbody tr").all_inner_texts()
    assert len(rows) == len(want.channels)
    assert rows[0].split("\t")[1] == f"{want.channels[0]['image_mean']:.3f}"
    assert visitor.page.locator("p.text:visible").inner_text() == want.text
    assert same(visitor.pictures(visitor.part("Latents")), want.channel_images)


def test_codes_are_inspected_as_codes(app: App, visitor: Visitor) -> None:
    visitor.page.get_by_label("Model").click()
    visitor.page.get_by_role("option", name="tiny-vq").click()
    visitor.page.get_by_text("codebook of 32").wait_for()
    visitor.open("Inspect")
    visitor.upload(app.digits[0])
    visitor.press("Inspect")
    visitor.page.get_by_text("Perplexity").wait_for()
    expect(visitor.page.locator("figure.chart polygon >> visible=true")).to_have_count(1)


def test_a_model_card_is_shown_and_runs_nothing(visitor: Visitor) -> None:
    visitor.open("Inspect")
    visitor.page.get_by_text("Model card").click()
    visitor.page.get_by_role("heading", name="Measured").wait_for()
    visitor.page.get_by_text("here", exact=True).click()
    visitor.page.wait_for_timeout(200)
    assert visitor.page.evaluate("window.evil") is None
    pictures = visitor.page.locator(".card img")
    expect(pictures).to_have_count(3)  # those that lie beside the card
    assert pictures.evaluate_all("images => images.every(image => image.complete && image.naturalWidth > 16)")
    recipe = visitor.page.locator(".card").get_by_text("preset:")
    expect(recipe).to_be_hidden()
    visitor.page.get_by_text("Recipe", exact=True).click()
    expect(recipe).to_be_visible()
    assert visitor.hosts == {"127.0.0.1"}
