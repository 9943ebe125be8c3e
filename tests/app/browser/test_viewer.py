"""The viewer alone in a page of its own: what is on the screen is compared with the pictures pixel by pixel."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from latent_ae.io.image import Pixels
from tests.app.browser.conftest import MISSING
from tests.app.pictures import pixels, png

pytest.importorskip("playwright", reason=MISSING)

from playwright.sync_api import Browser, Locator, Page, expect

from tests.app.browser.visitor import png_pixels

HEIGHT, WIDTH = 40, 60
NAMES = ("Original", "Model <b>", "JPEG")
PAGE = "http://viewer.test/"


class Shown(NamedTuple):
    """The viewer in its page, and the pictures [40, 60, 3] that it shows: noise, all different."""

    page: Page
    stage: Locator
    divider: Locator
    images: tuple[Pixels, ...]

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def level(self) -> str:
        return self.page.locator("output").inner_text()

    def centre(self, height: int, width: int) -> Pixels:
        """What is on the screen in the middle of the stage, without the divider."""
        divider = self.page.locator(".divider")
        divider.evaluate("divider => divider.style.opacity = 0")
        screen = png_pixels(self.stage.screenshot())
        divider.evaluate("divider => divider.style.opacity = 1")
        top, left = ((side - part) // 2 for side, part in zip(screen.shape, (height, width), strict=False))
        return screen[top : top + height, left : left + width]


@pytest.fixture
def shown(chromium: Browser, tmp_path: Path, gradio_folder: Path, request: pytest.FixtureRequest) -> Iterator[Shown]:
    from latent_ae.app.viewer import HEAD, Picture, viewer

    images = tuple(pixels(HEIGHT, WIDTH, seed=seed) for seed in range(len(NAMES)))
    files = [tmp_path / f"{number}.png" for number in range(len(NAMES))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(png(image))
    pictures = [Picture(str(file), name, "31.2 dB") for file, name in zip(files, NAMES, strict=True)]
    style = "<style>:root { --primary-500: teal } body { width: 300px; height: 3000px }</style>"
    body = f"{HEAD}{style}<body>{viewer(pictures)}"
    context = chromium.new_context(**{"viewport": {"width": 400, "height": 500}, **getattr(request, "param", {})})
    page = context.new_page()
    page.route(re.compile("file="), lambda route: route.fulfill(path=route.request.url.partition("file=")[2]))
    page.route(PAGE, lambda route: route.fulfill(body=f"<!doctype html>{body}", content_type="text/html"))
    page.goto(PAGE)
    expect(page.locator("output")).to_have_text(f"{500 * page.evaluate('devicePixelRatio')} %")  # 300 / 60
    yield Shown(page, page.locator(".stage"), page.get_by_role("slider", name="Divider"), images)
    context.close()


def repeated(image: Pixels, times: int) -> Pixels:
    return image.repeat(times, axis=0).repeat(times, axis=1)


def test_single_pixels_are_seen_on_both_sides_of_the_divider(shown: Shown) -> None:
    left, right, _ = shown.images
    shown.press("1:1")
    want = np.hstack([left[:, : WIDTH // 2], right[:, WIDTH // 2 :]])
    assert np.array_equal(shown.centre(HEIGHT, WIDTH), want)
    shown.press("2\N{MULTIPLICATION SIGN}")
    assert shown.level() == "200 %"
    assert np.array_equal(shown.centre(2 * HEIGHT, 2 * WIDTH), repeated(want, 2))
    shown.press("Smooth")
    assert not np.array_equal(shown.centre(2 * HEIGHT, 2 * WIDTH), repeated(want, 2))
    expect(shown.page.get_by_role("button", name="Smooth")).to_have_attribute("aria-pressed", "true")


def test_the_difference_is_exact_and_says_its_amplification(shown: Shown) -> None:
    left, right, jpeg = (image.astype(int) for image in shown.images)
    shown.press("1:1")
    shown.press("Difference")
    for gain in (8, 1):
        shown.page.get_by_label("Amplification of the difference").select_option(str(gain))
        want = np.minimum(np.abs(left - right) * gain, 255)
        assert np.abs(shown.centre(HEIGHT, WIDTH) - want).max() <= 1
        expect(shown.page.locator(".hint")).to_contain_text(f"\N{MULTIPLICATION SIGN} {gain}:")
    shown.page.get_by_label("Picture on the left").select_option("JPEG")
    expect(shown.page.locator("img.left")).to_have_js_property("complete", True)
    assert np.abs(shown.centre(HEIGHT, WIDTH) - np.abs(jpeg - right)).max() <= 1


def test_the_keyboard_is_enough(shown: Shown) -> None:
    left, right, _ = shown.images
    keys = shown.page.keyboard

    def pressed(key: str) -> str | None:
        keys.press(key)
        return shown.divider.get_attribute("aria-valuenow")

    shown.divider.focus()
    steps = {
        "ArrowRight": "51",
        "Shift+ArrowLeft": "41",
        "End": "100",
        "ArrowLeft": "99",
        "PageDown": "89",
        "Home": "0",
    }
    assert {key: pressed(key) for key in steps} == steps
    assert shown.divider.get_attribute("aria-valuetext") == "0 % Original, 100 % Model <b>"
    keys.press("1")
    assert np.array_equal(shown.centre(HEIGHT, WIDTH), right)
    keys.press("End")
    assert np.array_equal(shown.centre(HEIGHT, WIDTH), left)
    levels = []
    for key in ("+", "+", "-", "2", "0"):
        keys.press(key)
        levels.append(shown.level())
    assert levels == ["200 %", "300 %", "200 %", "200 %", "500 %"]
    for _ in range(3):
        keys.press("+")
    shown.stage.focus()
    before = shown.page.locator("img.left").bounding_box()
    keys.press("ArrowRight")
    keys.press("ArrowDown")
    after = shown.page.locator("img.left").bounding_box()
    assert (before["x"] - after["x"], before["y"] - after["y"]) == (40, 40)
    for name in ("Fit", "Zoom in", "Difference", "Full screen"):
        shown.page.get_by_role("button", name=name).focus()
        keys.press("Shift+Tab")
        keys.press("Tab")
        style = "e => getComputedStyle(e).outlineStyle"
        assert shown.page.get_by_role("button", name=name).evaluate(style) == "solid"


def test_the_wheel_scrolls_the_page_and_zooms_with_ctrl_at_the_pointer(shown: Shown) -> None:
    box = shown.stage.bounding_box()
    shown.page.mouse.move(box["x"] + 10, box["y"] + 10)
    shown.page.mouse.wheel(0, 100)
    shown.page.wait_for_function("scrollY === 100")
    assert shown.level() == "500 %"
    shown.page.evaluate("scrollTo(0, 0)")
    shown.page.keyboard.down("Control")
    shown.page.mouse.wheel(0, -200)
    expect(shown.page.locator("output")).to_have_text("1000 %")
    shown.page.keyboard.up("Control")
    assert shown.page.evaluate("scrollY") == 0
    picture = shown.page.locator("img.left").bounding_box()
    assert abs(picture["x"] - (box["x"] - 10)) <= 1  # what was under the pointer is there still


def test_dragging_moves_the_divider_and_larger_pictures(shown: Shown) -> None:
    box, mouse = shown.stage.bounding_box(), shown.page.mouse

    def drag(across: int, down: int) -> None:
        mouse.move(box["x"] + 150, box["y"] + 50)
        mouse.down()
        mouse.move(box["x"] + 150 + across, box["y"] + 50 + down, steps=3)
        mouse.up()

    drag(75, 0)
    assert shown.divider.get_attribute("aria-valuenow") == "75"
    shown.page.get_by_role("button", name="Zoom in").click()  # 600 %
    before = shown.page.locator("img.left").bounding_box()
    drag(-9, -7)
    after = shown.page.locator("img.left").bounding_box()
    assert (after["x"] - before["x"], after["y"] - before["y"]) == (-9, -7)
    assert shown.divider.get_attribute("aria-valuenow") == "75"
    drag(400, 300)  # no farther than the picture goes
    assert shown.page.locator("img.left").bounding_box()["x"] == box["x"]


def test_full_screen_has_the_names_and_figures(shown: Shown) -> None:
    shown.press("Full screen")
    shown.page.wait_for_function("document.fullscreenElement !== null")
    names = shown.page.get_by_label("Picture on the right")
    expect(names).to_be_in_viewport()
    assert names.locator("option").all_inner_texts() == list(NAMES)
    expect(shown.page.locator(".figures.right")).to_be_in_viewport()
    assert shown.page.locator(".figures.right").inner_text() == "31.2 dB"
    assert shown.stage.bounding_box()["height"] > 250
    shown.press("Full screen")
    shown.page.wait_for_function("document.fullscreenElement === null")
    expect(shown.page.locator(".full")).to_have_count(0)


def test_a_new_result_keeps_the_view(shown: Shown) -> None:
    """As Gradio patches it: attributes and texts of the children change, and what it did not write goes."""
    shown.press("2\N{MULTIPLICATION SIGN}")
    shown.divider.press("End")
    shown.page.evaluate(
        "() => { const [first, second, third] = document.querySelector('pixel-viewer').children;"
        " first.href = second.href; first.textContent = 'Other'; first.dataset.figures = ''; third.remove() }"
    )
    expect(shown.page.get_by_label("Picture on the left")).to_have_text("OtherModel <b>")
    expect(shown.page.locator("img.left")).to_have_attribute("alt", "Other")
    assert shown.level() == "200 %"
    assert np.array_equal(shown.centre(2 * HEIGHT, 2 * WIDTH), repeated(shown.images[1], 2))


def test_the_same_picture_twice_changes_the_sides(shown: Shown) -> None:
    shown.page.get_by_label("Picture on the right").select_option("Original")
    expect(shown.page.get_by_label("Picture on the left")).to_have_value(NAMES[1])
    expect(shown.page.locator("img.left")).to_have_attribute("alt", "Model <b>, 31.2 dB")


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "device_scale_factor": 2, "is_mobile": True}


@pytest.mark.parametrize("shown", [PHONE], indirect=True)
def test_two_fingers_zoom_on_a_phone(shown: Shown) -> None:
    box = shown.stage.bounding_box()
    touch = shown.page.context.new_cdp_session(shown.page)

    def fingers(kind: str, *across: int) -> None:
        points = [{"x": box["x"] + 150 + x, "y": box["y"] + 80, "id": n} for n, x in enumerate(across)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", -20, 20)
    fingers("touchMove", -40, 40)
    fingers("touchEnd")
    expect(shown.page.locator("output")).to_have_text("2000 %")
