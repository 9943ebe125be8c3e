"""A visitor of the page: what is clicked, and what the browser then has."""

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from latent_ae.io.image import Pixels


class Visitor:
    """One browser window on the app."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.said: list[str] = []
        """errors on the browser's console"""
        self.hosts: set[str] = set()
        """that anything was fetched from"""
        page.set_default_timeout(20_000)
        page.on("console", lambda said: self.said.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda asked: self.hosts.update(re.findall(r"^https?://([^/:]+)", asked.url)))
        page.goto(url)
        self.settled()

    def settled(self) -> None:
        """Wait until the first example is reconstructed."""
        self.page.get_by_text("encoded and decoded").wait_for(timeout=60_000)  # the first visitor of all waits longest
        self.done()

    def done(self) -> None:
        """Wait until the work of the tab that is open is done."""
        self.page.wait_for_function(
            "!document.querySelector('.old') && !document.querySelector('.status .progress-level')"
        )

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).locator("visible=true").click()

    def upload(self, file: Path, box: str = "Image") -> None:
        """Into the box of the tab that is open that has this label."""
        block = self.page.locator(f".controls:visible .block:has(label:text-is('{box}'))")
        block.locator("input[type=file]").set_input_files(file)
        block.get_by_role("button", name=re.compile("Remove Image|Clear")).wait_for()

    def reconstruct(self, file: Path) -> None:
        """From the upload, which starts it, until the results are there."""
        slider = self.page.locator("pixel-viewer img").first
        before = slider.get_attribute("src")
        self.upload(file)
        expect(slider).not_to_have_attribute("src", before or "")
        self.done()

    def compared(self) -> None:
        """Wait for JPEG and WebP beside the reconstruction."""
        self.page.get_by_text("WebP \N{MIDDLE DOT}").first.wait_for()

    def told(self) -> str:
        """The line above the results of the tab that is open."""
        return self.page.locator(".status:visible .note").first.inner_text()

    def part(self, title: str) -> Locator:
        """The component below a title."""
        return self.page.locator(f".block:has(h2:text-is('{title}')) + .block >> visible=true")

    def pictures(self, within: Locator) -> list[Pixels]:
        """What the browser has got for the images in `within`, pixel by pixel."""
        images = within.locator("img").all()
        return [self.fetch(image) for image in images]

    def fetch(self, image: Locator) -> Pixels:
        """The pixels of the very file that an <img> shows; it is a PNG."""
        return png_pixels(self.bytes_of(image))

    def bytes_of(self, image: Locator) -> bytes:
        address = image.evaluate("image => image.src")
        answer = self.page.request.get(address)
        assert answer.ok, address
        return answer.body()

    def download(self, button: str, folder: Path) -> Path:
        with self.page.expect_download() as waited:
            self.press(button)
        path = folder / waited.value.suggested_filename
        waited.value.save_as(path)
        return path

    def wide(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


def png_pixels(data: bytes) -> Pixels:
    """[H,W,3] uint8 of a PNG; grey is repeated."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def as_shown(image: Pixels) -> Pixels:
    """[H,W,1 or 3] as [H,W,3]."""
    return image.repeat(3 // image.shape[2], axis=2)
