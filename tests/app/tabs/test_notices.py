"""Sentences above a reconstruction."""

import dataclasses

import pytest

from latent_ae.app.tabs.notices import in_numbers, notices
from latent_ae.service.results import Reconstruction
from latent_ae.service.service import Service
from tests.app.pictures import pixels, png


@pytest.fixture
def made(service: Service) -> Reconstruction:
    return service.reconstruct(png(pixels(24, 20)), model="tiny-kl")


def test_an_image_that_the_model_knows_needs_no_notice(made: Reconstruction) -> None:
    assert notices([made, made]) == ""


def test_what_is_unlike_and_what_was_converted_is_said_once(made: Reconstruction) -> None:
    remark = "had colours of Adobe RGB (1998), which were converted to sRGB"
    read = dataclasses.replace(
        made, unlike="tiny-kl knows digits.", encoded=dataclasses.replace(made.encoded, remarks=(remark,))
    )
    assert notices([read, read]) == f"tiny-kl knows digits. The image {remark}."


def test_seams_are_said_where_tiles_disagree(made: Reconstruction) -> None:
    decoding = dataclasses.replace(made.decoding, tiles=4)
    seen, unseen = (dataclasses.replace(made, decoding=decoding, seam_db=level) for level in (31.25, 52.0))
    assert "4 tiles, whose seams may be seen: where they overlap they agree to 31.2 dB" in notices([seen])
    assert notices([unseen]) == ""


def test_latents_are_compared_with_the_image_in_numbers(service: Service, made: Reconstruction) -> None:
    def said(found: Reconstruction) -> str:
        return in_numbers(found).replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{RIGHTWARDS ARROW}", "->")

    assert said(made) == "3 x 24 x 20 -> 4 x 6 x 5: 12 times fewer numbers"
    codes = service.reconstruct(png(pixels(24, 20)), model="tiny-vq")
    assert said(codes) == "3 x 24 x 20 -> 6 x 5 codes out of 32: 48 times fewer numbers"
    thin = service.reconstruct(png(pixels(1, 1)), model="tiny-kl")
    assert said(thin) == "3 x 1 x 1 -> 4 x 1 x 1: 1.33 times more numbers"
