"""Keyboard, themes, phones: what the page is like to use."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.browser.conftest import MISSING, App

pytest.importorskip("playwright", reason=MISSING)

from playwright.sync_api import Page, expect

from tests.app.browser.visitor import Visitor

TABS = ("Reconstruct", "Compare", "Decode", "Sample", "Interpolate", "Inspect")


def focused(page: Page) -> tuple[str, str]:
    """The name of what has the focus, and the style of its outline; no name where nothing has it."""
    return page.evaluate(
        """() => { let e = document.activeElement
        while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement
        if (e === document.body) return ['', 'none']  // what had it has just been drawn anew
        return [e.getAttribute('aria-label') || e.innerText || '', getComputedStyle(e).outlineStyle] }"""
    )


def test_the_keyboard_is_enough_to_reconstruct(visitor: Visitor) -> None:
    page = visitor.page

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            got, outline = focused(page)
            assert outline != "none" or not got, f"{got} does not show that it has the focus"
            if got.strip() == name:
                return
        raise AssertionError(f"cannot reach {name}")

    page.get_by_role("button", name="Example 2").wait_for()
    tab_to("Example 2")
    shown = page.locator("pixel-viewer img").first
    before = shown.get_attribute("src")
    page.keyboard.press("Enter")
    expect(shown).not_to_have_attribute("src", before)
    expect(page.get_by_role("button", name="Reconstruct", exact=True)).to_be_enabled()  # it is not while that runs
    tab_to("Reconstruct")
    page.keyboard.press("Enter")
    page.get_by_text("encoded and decoded").wait_for()
    tab_to("range slider for Gain")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("number input for Gain")).to_have_value("9")
    tab_to("Download the table (CSV)")


def test_few_pixels_are_enlarged_without_smoothing(app: App, visitor: Visitor) -> None:
    visitor.compared()
    for image in visitor.page.locator("img:visible").all():
        name = image.evaluate("image => image.closest('.block, .stage').className")
        image.scroll_into_view_if_needed()
        expect(image).to_have_css("image-rendering", "pixelated")
        assert image.bounding_box()["width"] >= 70, name
    assert visitor.page.locator("pixel-viewer img").first.bounding_box()["width"] > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(app: App, visit: Callable[..., Visitor], tmp_path: Path, scheme: str) -> None:
    visitor = visit(color_scheme=scheme)
    visitor.compared()
    visitor.page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    assert brightness(visitor.page) == scheme
    poor = visitor.page.evaluate(POOR_CONTRAST)
    assert poor == []
    visitor.press("Dark or light")
    other = {"light": "dark", "dark": "light"}[scheme]
    visitor.page.wait_for_timeout(400)  # colours fade
    assert brightness(visitor.page) == other
    assert visitor.page.evaluate(POOR_CONTRAST) == []
    visitor.page.reload()
    visitor.page.get_by_role("button", name="Reconstruct", exact=True).wait_for()
    visitor.page.wait_for_timeout(400)
    assert brightness(visitor.page) == other


def test_a_phone_shows_everything_without_scrolling_sideways(
    app: App, visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    assert visitor.wide() == 0
    visitor.compared()
    for tab in TABS:
        visitor.page.get_by_role("tab", name=tab, exact=True).click()
        visitor.page.screenshot(path=tmp_path / f"{tab}.png", full_page=True)
        assert visitor.wide() == 0, tab
    visitor.page.get_by_text("Model card").click()
    visitor.page.get_by_role("heading", name="Measured").wait_for()
    assert visitor.wide() == 0


def brightness(page: Page) -> str:
    level = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    return "light" if level > 127 else "dark"


POOR_CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number)
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b }
  const above = e => e.parentElement ?? e.getRootNode().host
  const behind = e => { for (; e; e = above(e)) { const c = rgb(getComputedStyle(e).backgroundColor)
    if (c.length < 4 || c[3] > 0.9) return c.slice(0, 3) } return [255, 255, 255] }
  const poor = []
  const texts = 'p, h1, h2, dt, dd, th, td, label span, button, strong, .info-text, select, output, .figures'
  const roots = [document, ...[...document.querySelectorAll('pixel-viewer')].map(viewer => viewer.shadowRoot)]
  for (const e of roots.flatMap(root => [...root.querySelectorAll(texts)])) {
    const own = e.tagName === 'SELECT' || [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
    if (!own || !e.checkVisibility({opacityProperty: true}) || e.disabled || e.closest('footer')) continue
    const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x)
    const ratio = (a + 0.05) / (b + 0.05)
    if (ratio < 4.5) poor.push(`${e.innerText.trim().slice(0, 40)}: ${ratio.toFixed(2)}`)
  }
  return poor
}"""
"""texts of less than the contrast that WCAG AA asks for"""
