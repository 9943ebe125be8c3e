"""The windows of an image give each of its values once, and together with their margins what the whole gives."""

import pytest
import torch

from latent_ae.evaluation.metrics.windows import windows


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 40), (5, 33), (48, 31)], ids=str)
@pytest.mark.parametrize("stride", [1, 4])
def test_every_value_is_given_once(size: tuple[int, int], stride: int) -> None:
    numbers = torch.arange(size[0] * size[1]).view(1, 1, *size)
    expected = numbers[..., ::stride, ::stride]
    given = []
    for window in windows(size, side=16, margin=8):
        part = window.of(numbers)
        given.append(window.without_margin(part[..., ::stride, ::stride], size, stride).flatten())
    assert torch.cat(given).sort().values.equal(expected.flatten())


def test_a_margin_ends_where_the_image_does() -> None:
    parts = list(windows((40, 20), side=16, margin=8))
    assert len(parts) == 6
    first, *_, last = parts
    assert (first.rows, first.outer_rows, first.columns, first.outer_columns) == ((0, 16), (0, 24), (0, 16), (0, 20))
    assert (last.rows, last.outer_rows, last.columns, last.outer_columns) == ((32, 40), (24, 40), (16, 20), (8, 20))
