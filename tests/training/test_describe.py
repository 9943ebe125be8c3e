"""What a run says of its images at its start."""

import torch

from latent_ae.io.pixel_format import PixelFormat
from latent_ae.training.describe import describe_levels


def test_a_run_on_images_of_few_levels_is_warned_of_before_it_starts() -> None:
    """12-bit values read in the range of 16 bits use a sixteenth of the levels."""
    values = torch.arange(4096).view(1, 1, 64, 64)
    form = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),))
    line, warning = describe_levels(values / 65535 * 2 - 1, form).splitlines()
    assert line == "levels: the median of 1 training crops uses 17 of 256"
    assert warning.startswith("warning: 1 of 1 images use at most 17 of 256 levels")
    assert warning.endswith("give a narrower data.value_range, or data.percentiles")
    assert describe_levels(values / 4095 * 2 - 1, form) == "levels: the median of 1 training crops uses 256 of 256"
