"""The pixel format of a run: from its settings, and for percentiles from its training images."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from latent_ae.data.settings import DataConfig
from latent_ae.data.source import DataError, ImageSource
from latent_ae.errors import BrokenImage
from latent_ae.io.pixel_format import Array, PixelFormat, Range

_IMAGES = 1000
"""training images, spread evenly over all, whose values give percentiles"""
_VALUES = 20_000_000
"""values that are looked at; of larger images positions spread evenly"""
_DTYPE_IMAGES = 20
"""images whose types are looked at"""


def pixel_format(
    config: DataConfig, source: ImageSource, *, channels: int, rgb: Sequence[int] | None = None
) -> PixelFormat:
    """That of images with `channels` channels as the settings read them; `source` is their training part.

    Percentiles are of the values of up to 1000 images, spread evenly over all. Decoded images have a type that holds
    those of 20 images, spread alike. Raises UserError for settings that do not fit the channels, and DataError where no
    image can be read or the range is empty.
    """
    shown = tuple(rgb or ())
    if not config.reads_numbers:
        if config.alpha is not None and channels not in (2, 4):
            raise DataError(f"data.alpha {config.alpha} is of images with 2 or 4 channels, the model's have {channels}")
        return PixelFormat.picture(channels, alpha=config.alpha, rgb=shown)
    found = PixelFormat(
        channels,
        numbers=True,
        ranges=config.given_ranges() or ((0.0, 1.0),),
        gamma=config.gamma,
        bands=config.bands or (),
        rgb=shown,
        unit=config.unit,
    )
    dtype = np.result_type(*{array.dtype for array in _arrays(source, found, _DTYPE_IMAGES)}).name
    return found.replace(dtype=dtype, ranges=config.given_ranges() or _measured(config, source, found))


def read_as(pixels: PixelFormat, config: DataConfig, model_name: str) -> DataConfig:
    """The settings of images that are read as a model does: as pictures, or as numbers in its ranges.

    Raises UserError for settings that say otherwise.
    """
    given, reads = config.given_ranges(), f"{model_name} reads {pixels.describe()}: leave it out"
    if given is not None and (not pixels.numbers or given != pixels.ranges):
        raise DataError(f"data.{'value_range' if config.window is None else 'window'} has no effect, {reads}")
    if config.percentiles is not None and not pixels.numbers:
        raise DataError(f"data.percentiles has no effect, {reads}")
    if config.alpha not in (None, pixels.alpha):
        raise DataError(f"data.alpha {config.alpha} has no effect, {reads}")
    if not pixels.numbers:
        return config
    if not config.has_numbers:
        raise DataError(
            f"{model_name} reads {pixels.describe()}, and data.source {config.source} holds pictures: take folder"
        )
    own = {
        "value_range": tuple(end for ends in pixels.ranges for end in ends),
        "gamma": pixels.gamma,
        "bands": config.bands or pixels.bands or None,
        "unit": pixels.unit,
        **dict.fromkeys(("percentiles", "window")),
        "per_channel": False,
    }
    return config.model_copy(update=own)


def _measured(config: DataConfig, source: ImageSource, form: PixelFormat) -> tuple[Range, ...]:
    assert config.percentiles is not None
    count = min(len(source), _IMAGES)
    positions = max(1, _VALUES // (count * form.channels))
    parts: list[NDArray[np.generic]] = []
    for array in _arrays(source, form, _IMAGES):
        values = array.reshape(-1, form.channels)
        picked = np.linspace(0, len(values) - 1, min(positions, len(values))).astype(np.int64)
        parts.append(values[picked])
    values = np.concatenate(parts)
    kept = values.T if config.per_channel else values.reshape(1, -1)
    ends = np.percentile(kept.astype(np.float64), config.percentiles, axis=1)
    for place, (low, high) in enumerate(ends.T):
        if not low < high:
            of = f" of channel {place + 1}" if config.per_channel else ""
            raise DataError(
                f"data.percentiles {config.percentiles[0]:g} and {config.percentiles[1]:g}{of} of the training images "
                f"are both {low:g}: give data.value_range, or percentiles farther apart"
            )
    return tuple((float(low), float(high)) for low, high in ends.T)


def _arrays(source: ImageSource, form: PixelFormat, count: int) -> Iterator[Array]:
    """Those of up to `count` images, spread evenly, that can be read. Raises DataError if there are none."""
    total, reason, read = len(source), "", 0
    for place in range(min(count, total)):
        index = place * total // min(count, total)
        try:
            image = source.load(index)
            if not isinstance(image, np.ndarray):
                raise TypeError(f"a source that reads numbers gave {type(image).__name__}")
            yield form.array(image)
            read += 1
        except BrokenImage as error:
            reason = f"{source.sample_id(index)}: {error.reason}"
    if not read:
        raise DataError(f"none of {min(count, total)} training images can be read as numbers; the last: {reason}")
