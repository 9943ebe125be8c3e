"""The error of the mean of the other images, by leaving each image out in turn; the levels that images use."""

import pickle

import numpy as np
import pytest
import torch

from latent_ae.evaluation.metrics.baseline import MeanImageStatistics, levels_used


def images(count: int, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height)) * 2 - 1


def measured(*batches: torch.Tensor) -> MeanImageStatistics:
    statistics = MeanImageStatistics()
    for batch in batches:
        statistics.update(batch)
    return statistics


def test_the_error_of_the_mean_of_the_other_images() -> None:
    pixels = images(6).double()
    others = [torch.cat([pixels[:i], pixels[i + 1 :]]).mean(0) for i in range(6)]
    expected = np.mean([float((pixels[i] - others[i]).square().mean()) for i in range(6)])
    whole = measured(pixels)
    assert (whole.mse(), whole.mean_is) == (pytest.approx(expected, rel=1e-8), "image")
    first, second = measured(pixels[:1], pixels[1:3]), pickle.loads(pickle.dumps(measured(pixels[3:])))
    second.merge(first)
    assert second.mse() == whole.mse()


def test_images_of_several_sizes_have_a_mean_colour() -> None:
    batches = [images(2), images(3, 4, 4)]
    every = [image.double() for batch in batches for image in batch]
    colors = torch.stack([image.mean((1, 2)) for image in every])
    errors = []
    for place, image in enumerate(every):
        color = torch.cat([colors[:place], colors[place + 1 :]]).mean(0)
        errors.append(float((image - color[:, None, None]).square().mean()))
    statistics = measured(*batches)
    assert (statistics.mse(), statistics.mean_is) == (pytest.approx(np.mean(errors), rel=1e-8), "colour")


def test_one_image_has_no_other() -> None:
    assert measured().mse() is None
    assert measured(images(1)).mse() is None
    assert measured(images(1).repeat(2, 1, 1, 1)).mse() == 0


def test_the_levels_that_images_use() -> None:
    levels = torch.tensor([[0.0, 0, 255, 255], [1, 2, 3, 3.4], [0, 85, 170, 255]]).view(3, 1, 2, 2)
    assert levels_used(levels / 127.5 - 1) == [2, 3, 4]
    ramp = torch.linspace(-1, 1, 65536).view(1, 1, 256, 256)
    assert levels_used(ramp) == [256]
