"""Maps of the latent space: planes and accuracies worked out by hand, pictures pixel by pixel."""

import numpy as np
import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.data import DigitsConfig
from latent_ae.errors import BrokenImage, UserError
from latent_ae.inference import Codec
from latent_ae.inference.latent_map import (
    PANEL,
    EncodedImages,
    class_color,
    decoded_plane,
    encode_part,
    frequency,
    map_picture,
    neighbour_accuracy,
    plane_of,
)
from latent_ae.models import build_autoencoder
from tests.data.images import ListSource, noise_image


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Of two latent numbers for an image of 8x8 grey pixels."""
    config = ModelConfig(preset="tiny", block_out_channels=(4, 8, 8, 8), latent_channels=2)
    return Codec(build_autoencoder(config, seed=0, resolution=8), name="flat", precision="exact")


def test_two_numbers_are_the_plane() -> None:
    latents = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 5.0]]).view(3, 2, 1, 1)
    plane = plane_of(latents)
    assert torch.equal(plane.points(latents), latents.flatten(1))
    assert torch.equal(plane.latents(torch.tensor([[7.0, 8.0]])), torch.tensor([7.0, 8.0]).view(1, 2, 1, 1))
    assert plane.explained == 1


def test_larger_latents_are_projected_on_their_principal_components() -> None:
    """Points on a plane through 12 numbers with a little of a third direction, whose variances are known."""
    basis = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)))[0].T
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    scales = torch.tensor([5.0, 3.0, 1.0])
    latents = 2 + (signs * scales @ basis).view(8, 3, 2, 2)
    plane = plane_of(latents)
    assert plane.explained == pytest.approx((25 + 9) / (25 + 9 + 1), abs=1e-5)
    assert torch.allclose(plane.points(latents).abs(), scales[:2].expand(8, 2), atol=1e-4)
    assert torch.allclose(plane.origin, torch.full((3, 2, 2), 2.0), atol=1e-5)
    inside = plane.latents(torch.tensor([[0.5, -1.5]]))
    assert torch.allclose(plane.points(inside), torch.tensor([[0.5, -1.5]]), atol=1e-5)


def test_what_spans_no_plane_is_refused() -> None:
    with pytest.raises(UserError, match="2 numbers or more and 3 images, got 1 and 9"):
        plane_of(torch.zeros(9, 1, 1, 1))
    with pytest.raises(UserError, match="got 8 and 2"):
        plane_of(torch.zeros(2, 2, 2, 2))


def test_the_nearest_neighbour_by_hand() -> None:
    points, labels = torch.tensor([[0.0, 0], [10, 0], [0.4, 0]]), np.array([0, 1, -1])
    asked, truth = torch.tensor([[1.0, 0], [6, 0], [0.4, 0], [4, 0], [9, 9]]), np.array([0, 1, 0, 1, -1])
    assert neighbour_accuracy(points, labels, asked, truth) == 3 / 4
    assert frequency(np.array([1, -1, 1, 0, -1, 1])) == 3 / 4


def test_images_are_encoded_with_their_labels(codec: Codec) -> None:
    source = DigitsConfig().open().heldout
    found = encode_part(codec, source, size=(8, 8), most=20)
    assert found.latents.shape == (20, 2, 1, 1)
    assert found.label_names == tuple("0123456789")
    assert found.labels.tolist()[0] == source.label(0)
    assert found.labels.tolist()[-1] == source.label(len(source) - 1)


def test_images_that_cannot_be_used_are_left_out(codec: Codec) -> None:
    said: list[str] = []
    images = [noise_image(0), BrokenImage("torn"), noise_image(1, 40, 9)]
    found = encode_part(codec, ListSource(images), size=(8, 8), most=9, on_bad=said.append)
    assert found.latents.shape == (2, 2, 1, 1)
    assert found.labels.tolist() == [-1, -1]
    assert said == ["cannot use the image list/1: torn"]
    with pytest.raises(UserError, match="none of the images can be used"):
        encode_part(codec, ListSource([BrokenImage("torn")]), size=(8, 8), most=9)


def test_every_cell_is_the_image_of_its_middle(codec: Codec) -> None:
    plane = plane_of(torch.zeros(3, 2, 1, 1))
    picture = decoded_plane(codec, plane, np.array([0.0, 10.0]), np.array([4.0, 14.0]), steps=2)
    assert picture.shape == (PANEL, PANEL, 1)
    middles = torch.tensor([[1.0, 13], [3, 13], [1, 11], [3, 11]]).view(4, 2, 1, 1)
    images = codec.pixel_format.previews(codec.decode_tensor(middles))
    half = PANEL // 2
    for image, (top, left) in zip(images, [(0, 0), (0, half), (half, 0), (half, half)], strict=True):
        cell = picture[top : top + half, left : left + half]
        assert cell[20, 20, 0] == image[0, 0, 0]  # far from the next pixel, which scaling mixes in
        assert abs(float(cell.mean()) - float(image.mean())) < 1


def test_points_lie_where_their_latents_are(codec: Codec) -> None:
    """Three points: lower left, upper left, right in the middle; the margin is 3 % of the range."""
    latents = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 1.0]]).view(3, 2, 1, 1)
    near, far = round(0.03 / 1.06 * PANEL), round(1.03 / 1.06 * PANEL)
    named = map_picture(codec, plane_of(latents), EncodedImages(latents, np.array([0, 1, -1]), ("", "b")), steps=4)
    grey = map_picture(codec, plane_of(latents), EncodedImages(latents, np.array([-1, -1, -1]), ()), steps=4)
    assert named.shape == grey.shape == (PANEL, 2 * PANEL + 2, 3)
    for row, column in [(far, near), (near, near), (PANEL // 2, far)]:
        assert np.abs(grey[row, column].astype(int) - class_color(-1, 0)).max() < 10
    assert np.abs(named[far, near].astype(int) - class_color(0, 2)).max() < 10
    assert named[near, near].tolist() != grey[near, near].tolist()
    assert np.array_equal(named[:, PANEL:], grey[:, PANEL:])
    assert grey[PANEL // 3, PANEL // 2].tolist() == [255, 255, 255]


def test_classes_have_different_colors() -> None:
    assert len({class_color(label, 10) for label in range(10)} | {class_color(-1, 10)}) == 11
