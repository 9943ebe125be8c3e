"""Attributes against means and areas worked out by hand, with real tiny models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_ae.config import ModelConfig
from latent_ae.data import DataError, DigitsConfig, SourceParts
from latent_ae.errors import BrokenImage, UserError
from latent_ae.inference import Codec
from latent_ae.inference.attribute_sides import Side, sides_of_classes, sides_of_files
from latent_ae.inference.attributes import edited, find_attribute, mean_difference, separation
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.encode_decode import encode
from tests.data.images import ListSource, noise_image

GREY = PixelFormat.picture(1)


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Of factor 2, grey."""
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    return Codec(model, name="tiny", precision="exact")


def flat(level: int, height: int = 8, width: int = 8) -> Array:
    return np.full((height, width, 1), level, np.uint8)


def side(name: str, fitted: list[Array], heldout: list[Array]) -> Side:
    return Side(name, [lambda image=image: image for image in fitted], [lambda image=image: image for image in heldout])


def test_two_clusters_of_a_known_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    difference = torch.tensor([3.0, 0.0]).view(2, 1, 1)
    start = torch.randn(400, 2, 1, 1, generator=generator)
    end = torch.randn(400, 2, 1, 1, generator=generator) + difference
    assert (mean_difference(start, end) - difference).abs().max() < 0.2
    measured = separation(difference, start[:100], end[:100])
    # Normal distributions three deviations apart: Phi(3 / sqrt 2)
    assert measured.auc == pytest.approx(0.983, abs=0.015)
    assert measured.separates
    assert (measured.from_count, measured.to_count) == (100, 100)


def test_the_area_and_its_chance_by_hand() -> None:
    """Of the six pairs four have the larger projection in `end`; 5 of the 10 orders of 2 + 3 give four or more."""
    start, end = (torch.tensor(values).view(-1, 1, 1, 1) for values in ([1.0, 4.0], [2.0, 3.0, 5.0]))
    measured = separation(torch.ones(1, 1, 1), start, end)
    assert measured.auc == pytest.approx(4 / 6)
    assert measured.p_value == pytest.approx(4 / 10)
    assert separation(-torch.ones(1, 1, 1), start, end).auc == pytest.approx(2 / 6)


def test_sides_assigned_by_chance_do_not_separate(codec: Codec) -> None:
    images = [np.asarray(noise_image(seed, 8, 8).convert("L"))[:, :, None] for seed in range(80)]
    found = find_attribute(codec, side("a", images[:20], images[20:40]), side("b", images[40:60], images[60:]))
    assert not found.separation.separates
    assert str(found.separation).startswith("does not separate")


def test_the_attribute_leads_from_one_mean_to_the_other(codec: Codec) -> None:
    """Added once to the mean of one side, it decodes as the mean of the other."""
    dark, bright = [flat(20), flat(60)], [flat(180), flat(240)]
    found = find_attribute(codec, side("dark", dark, dark), side("bright", bright, bright))
    pixels = [torch.stack([codec.pixel_format.to_tensor(image) for image in images]) for images in (dark, bright)]
    means = [encode(codec.model, images).mean(0) for images in pixels]
    assert torch.allclose(found.tensor, means[1] - means[0], atol=1e-5)
    assert (found.from_count, found.to_count, found.encoder) == (2, 2, codec.identity)
    start = replace(codec.encode([flat(20)])[0], tensor=means[0][None])
    whole, none = edited(codec, start, found, [1.0, 0.0])
    expected = [codec.pixel_format.previews(codec.decode_tensor(mean[None]))[0] for mean in means]
    assert np.abs(whole.astype(int) - expected[1]).max() <= 1
    assert np.array_equal(none, expected[0])


def test_images_of_several_sizes_share_a_vector_of_channels(codec: Codec) -> None:
    dark, bright = [flat(20), flat(20, 12, 6)], [flat(240), flat(240, 6, 12)]
    found = find_attribute(codec, side("dark", dark, dark), side("bright", bright, bright))
    assert found.tensor.shape == (codec.latent_channels, 1, 1)
    means = [
        torch.stack([codec.encode([image])[0].tensor[0].mean((1, 2)) for image in each]).mean(0)
        for each in (dark, bright)
    ]
    assert torch.allclose(found.tensor[:, 0, 0], means[1] - means[0], atol=1e-5)
    (image,) = edited(codec, codec.encode([flat(20, 15, 9)])[0], found, [1.0])
    assert image.shape == (15, 9, 1)
    alike = find_attribute(codec, side("a", dark[:1], dark), side("b", bright[:1], bright), any_size=True)
    assert alike.grid == (1, 1)


def test_an_image_of_another_size_is_refused(codec: Codec) -> None:
    found = find_attribute(codec, side("a", [flat(20)], [flat(20)]), side("b", [flat(240)], [flat(240)]))
    with pytest.raises(UserError, match=r"for images of 8x8 pixels, the image has 6x10: .*--any-size"):
        edited(codec, codec.encode([flat(20, 10, 6)])[0], found, [1.0])


def test_images_that_cannot_be_used_are_left_out(codec: Codec) -> None:
    def broken() -> Array:
        raise BrokenImage("torn", "x.png")

    said: list[str] = []
    start, end = side("a", [flat(20)], [flat(20)]), side("b", [flat(240)], [flat(240)])
    found = find_attribute(codec, replace(start, fitted=[broken, *start.fitted]), end, on_bad=said.append)
    assert found.from_count == 1
    assert said == ["cannot use the image x.png: torn"]
    with pytest.raises(UserError, match="b has no held-out images that can be used"):
        find_attribute(codec, start, replace(end, heldout=[broken]))


def test_a_codebook_has_no_attributes() -> None:
    bottleneck = BOTTLENECKS["vq"](codebook_size=8, code_channels=2)
    vq = Codec(build_autoencoder(ModelConfig(preset="tiny"), bottleneck, seed=0, resolution=16), name="vq")
    with pytest.raises(UserError, match="vq has a codebook"):
        find_attribute(vq, side("a", [flat(1)], [flat(1)]), side("b", [flat(9)], [flat(9)]))


def _folder(folder: Path, levels: range) -> list[Path]:
    folder.mkdir()
    for level in levels:
        Image.fromarray(flat(level)[:, :, 0]).save(folder / f"{level}.png")
    return sorted(folder.iterdir())


def levels_of(loads: object) -> list[int]:
    return [int(load()[0, 0, 0]) for load in loads]


def test_a_fifth_of_the_files_is_held_out_by_their_bytes(tmp_path: Path) -> None:
    files, others = _folder(tmp_path / "a", range(60)), _folder(tmp_path / "b", range(100, 115))
    first, second = sides_of_files(GREY, [("a", files), ("b", others)], most=1000)
    assert (len(first.fitted), len(first.heldout)) == (48, 12)
    assert (len(second.fitted), len(second.heldout)) == (8, 7)
    assert sorted(levels_of([*first.fitted, *first.heldout])) == list(range(60))
    heldout = levels_of(first.heldout)
    for path in files:
        path.rename(path.with_name(f"x{path.name[::-1]}.png"))
    again, _ = sides_of_files(GREY, [("a", sorted((tmp_path / "a").iterdir())), ("b", others)], most=1000)
    assert levels_of(again.heldout) == heldout
    few, _ = sides_of_files(GREY, [("a", sorted((tmp_path / "a").iterdir())), ("b", others)], most=30)
    assert (len(few.fitted), len(few.heldout)) == (20, 10)


def test_files_on_both_sides_are_refused(tmp_path: Path) -> None:
    files, others = _folder(tmp_path / "a", range(6)), _folder(tmp_path / "b", range(5, 9))
    with pytest.raises(UserError, match=r"1 images are on both sides, among them .*a/5.png, which is .*b/5.png"):
        sides_of_files(GREY, [("a", files), ("b", others)], most=9)
    with pytest.raises(UserError, match="b holds 1 image, expected at least 2 different ones"):
        sides_of_files(GREY, [("a", files), ("b", others[1:2] * 3)], most=9)


def test_classes_are_taken_from_both_parts() -> None:
    parts = DigitsConfig().open()
    three, eight = sides_of_classes(GREY, parts, ["3", "8"], most=40)
    assert (three.name, eight.name) == ("3", "8")
    assert [len(each) for each in (three.fitted, three.heldout, eight.fitted, eight.heldout)] == [40] * 4
    everything = sides_of_classes(GREY, parts, ["3", "8"], most=1000)[0]
    assert len(everything.fitted) == int((parts.train.labels == 3).sum())
    first = next(index for index in range(len(parts.train)) if parts.train.label(index) == 3)
    assert np.array_equal(everything.fitted[0](), GREY.array(parts.train.load(first)))


def test_a_class_that_there_is_not_is_refused() -> None:
    with pytest.raises(DataError, match="no class 'ten': there are 0, 1, 2"):
        sides_of_classes(GREY, DigitsConfig().open(), ["3", "ten"], most=9)
    images = ListSource([noise_image(0)])
    with pytest.raises(DataError, match="the images have no classes: give two folders"):
        sides_of_classes(GREY, SourceParts(images, images), ["3", "8"], most=9)
