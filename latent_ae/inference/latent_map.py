"""A plane through a model's latents: where encoded images lie on it, and what its points decode to.

images -> latents -> plane -> points, coloured by class | the same plane, decoded
"""

import colorsys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latent_ae.data.source import ImageSource, LabelledSource
from latent_ae.errors import UserError
from latent_ae.inference.codec import Codec
from latent_ae.inference.encoded_images import Load, OnBad, encoded_images, source_loader
from latent_ae.inference.image_reading import fitted
from latent_ae.inference.latent_pictures import decoded
from latent_ae.io.image import Pixels, image_grid
from latent_ae.io.pixel_format import Array

PANEL = 640
"""about the height of either half of a map, in pixels"""
_UNLABELLED = (90, 90, 90)
_MARGIN = 0.03
"""around the points, as a share of their range"""
_SMOOTH = 2
"""times the panel's size at which points are drawn"""


@dataclass(frozen=True)
class EncodedImages:
    """Latents of images of one size, and their classes."""

    latents: Tensor
    """[N,c,h,w], the posterior's modes, or the codes' vectors"""
    labels: NDArray[np.int64]
    """[N], -1 for an image without a class"""
    label_names: tuple[str, ...]
    """of the labels 0, 1, ...; empty without classes"""


@dataclass(frozen=True)
class Plane:
    """Latents = origin + x axes[0] + y axes[1]."""

    origin: Tensor
    """[c,h,w]"""
    axes: Tensor
    """[2,c,h,w], orthonormal"""
    explained: float
    """share of the encoded images' variance that lies in the plane"""

    def points(self, latents: Tensor) -> Tensor:
        """Latents [N,c,h,w] => [N,2], their projections on the plane."""
        return (latents - self.origin).flatten(1) @ self.axes.flatten(1).T

    def latents(self, points: Tensor) -> Tensor:
        """Points [N,2] => latents [N,c,h,w]."""
        return self.origin + torch.einsum("np,pchw->nchw", points, self.axes)


def encode_part(
    codec: Codec, source: ImageSource, *, size: tuple[int, int], most: int, on_bad: OnBad = lambda _: None
) -> EncodedImages:
    """Up to `most` images of a source, spread evenly, scaled and cropped to `size` (height, width), and encoded.

    Raises UserError if none can be used.
    """
    indices = np.linspace(0, len(source) - 1, min(most, len(source))).astype(int).tolist()
    loads = [_at_size(source_loader(source, index, codec.pixel_format), size) for index in indices]
    found = {
        index: latents
        for index, latents in zip(indices, encoded_images(codec, loads, on_bad), strict=True)
        if latents is not None
    }
    if not found:
        raise UserError("none of the images can be used")
    names: tuple[str, ...] = ()
    labels = [-1] * len(found)
    if isinstance(source, LabelledSource) and source.label_names:
        names = source.label_names
        labels = [-1 if (label := source.label(index)) is None else label for index in found]
    return EncodedImages(torch.stack(list(found.values())), np.array(labels, np.int64), names)


def plane_of(latents: Tensor) -> Plane:
    """The plane of latents [N,c,h,w]: themselves if they are two numbers, else along their two principal components.

    Raises UserError for latents of one number and fewer than three images.
    """
    shape = latents.shape[1:]
    if (numbers := shape.numel()) < 2 or len(latents) < 3:
        raise UserError(f"a map needs latents of 2 numbers or more and 3 images, got {numbers} and {len(latents)}")
    if numbers == 2:
        return Plane(torch.zeros(shape), torch.eye(2).view(2, *shape), explained=1.0)
    from sklearn.decomposition import PCA  # noqa: PLC0415 - a second, which no other command needs

    fitted_to = PCA(2, svd_solver="full").fit(latents.flatten(1).double().numpy())
    axes = torch.from_numpy(fitted_to.components_).float().view(2, *shape)
    origin = torch.from_numpy(fitted_to.mean_).float().view(shape)
    return Plane(origin, axes, explained=float(fitted_to.explained_variance_ratio_.sum()))


def neighbour_accuracy(
    points: Tensor, labels: NDArray[np.int64], held_points: Tensor, held_labels: NDArray[np.int64]
) -> float:
    """Share of held-out points whose class is that of the nearest point. Unlabelled points are left out.

    Args:
        points: [N,2] of images that may be neighbours.
        labels: [N] their classes, -1 for none.
        held_points: [M,2].
        held_labels: [M].
    """
    from sklearn.neighbors import KNeighborsClassifier  # noqa: PLC0415 - a second, which no other command needs

    known, asked = labels >= 0, held_labels >= 0
    nearest = KNeighborsClassifier(1).fit(points[known].numpy(), labels[known])
    return float(nearest.score(held_points[asked].numpy(), held_labels[asked]))


def frequency(labels: NDArray[np.int64]) -> float:
    """Share of the most frequent class in labels [N], those of -1 left out: the accuracy of always answering it."""
    counts = np.bincount(labels[labels >= 0])
    return float(counts.max() / counts.sum())


def map_picture(codec: Codec, plane: Plane, images: EncodedImages, *, steps: int) -> Pixels:
    """The images' points, coloured and named by class, beside the plane decoded at `steps` x `steps` points.

    Both halves show the same part of the plane, which holds all points; the second number grows upwards.
    """
    points = plane.points(images.latents).double().numpy()
    margin = _MARGIN * np.ptp(points, axis=0)
    low, high = points.min(0) - margin, points.max(0) + margin
    right = decoded_plane(codec, plane, low, high, steps=steps)
    return image_grid([[_scatter(points, images, low, high, (right.shape[0], right.shape[1])), right]])


def decoded_plane(
    codec: Codec, plane: Plane, low: NDArray[np.float64], high: NDArray[np.float64], *, steps: int
) -> Pixels:
    """The plane from `low` to `high` ([2] each) as steps x steps images without gaps, [H,W,C].

    Each image is that of the middle of its cell.
    """
    shares = (np.arange(steps) + 0.5) / steps
    xs, ys = low[:, None] + (high - low)[:, None] * shares
    grid = np.stack(np.meshgrid(xs, ys[::-1]), axis=-1).reshape(-1, 2)
    images = decoded(codec, plane.latents(torch.from_numpy(grid).float()))
    side = max(1, PANEL // steps)
    height, width = images[0].shape[:2]
    cells = [fitted(image, side, max(1, round(side * width / height))) for image in images]
    rows = [np.concatenate(cells[first : first + steps], axis=1) for first in range(0, len(cells), steps)]
    return np.concatenate(rows)


def _scatter(
    points: NDArray[np.float64],
    images: EncodedImages,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    size: tuple[int, int],
) -> Pixels:
    height, width = (side * _SMOOTH for side in size)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    places = (points - low) / np.maximum(high - low, 1e-12)
    places = np.stack([places[:, 0] * (width - 1), (1 - places[:, 1]) * (height - 1)], axis=1)
    radius = 3.0 * _SMOOTH
    for (x, y), label in zip(places, images.labels, strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=class_color(label, len(images.label_names)))
    font = ImageFont.load_default(22 * _SMOOTH)
    for label, name in enumerate(images.label_names):
        if (own := places[images.labels == label]).size:
            x, y = np.median(own, axis=0)
            draw.text((x, y), name, "black", font, anchor="mm", stroke_width=3 * _SMOOTH, stroke_fill="white")
    return np.asarray(canvas.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def class_color(label: int, count: int) -> tuple[int, int, int]:
    """A class's colour among `count`: hues at even distances, every other one darker; grey for -1."""
    if label < 0:
        return _UNLABELLED
    red, green, blue = colorsys.hls_to_rgb(label / count, (0.38, 0.58)[label % 2], 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def _at_size(load: Load, size: tuple[int, int]) -> Load:
    def load_fitted() -> Array:
        return fitted(load(), *size)

    return load_fitted
