"""Reloads and links keep what was chosen."""

import re

import pytest

from tests.app.browser.conftest import MISSING, App

pytest.importorskip("playwright", reason=MISSING)

from playwright.sync_api import expect

from tests.app.browser.visitor import Visitor


def test_a_link_shows_which_models_are_compared(app: App, visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("Compare")
    models = page.get_by_role("group", name="Models").or_(page.locator(".controls:visible fieldset"))
    models.get_by_label("run").uncheck()
    expect(page).to_have_url(re.compile(r"\?tab=compare&models=tiny-vq$"))
    page.reload()
    expect(models.get_by_label("run")).not_to_be_checked()
    expect(models.get_by_label("tiny-vq")).to_be_checked()
    models.get_by_label("run").check()
    expect(page).to_have_url(re.compile(r"models=tiny-vq%2Crun$"))


def test_a_reload_keeps_the_tab_the_model_and_the_settings(app: App, visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_label("Model").click()
    page.get_by_role("option", name="tiny-vq").click()
    visitor.open("Sample")
    page.get_by_label("Seed", exact=True).fill("7")
    expect(page).to_have_url(re.compile(r"\?model=tiny-vq&tab=sample&seed=7$"))
    page.reload()
    expect(page.get_by_role("tab", name="Sample")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    page.get_by_text("codebook of 32").wait_for()
    visitor.open("Reconstruct")
    page.get_by_text("tiny-vq: ").first.wait_for()  # what is shown is of the model of the address
    page.get_by_label("Model").click()
    page.get_by_role("listbox").get_by_role("option", name="run").click()
    expect(page).to_have_url(re.compile(r"/\?seed=7$"))  # what is as at first is left out
    assert visitor.said == []
