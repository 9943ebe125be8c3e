"""What measuring will take, told before it starts: memory by prediction, time by what a small image takes."""

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from latent_ae.config import EvaluationConfig
from latent_ae.config.section import Size, size_of
from latent_ae.data.source import ImageSource, SizedSource, stored_size
from latent_ae.errors import BrokenImage, UserError
from latent_ae.evaluation.coder import Coder
from latent_ae.evaluation.evaluate import Networks
from latent_ae.evaluation.metrics.large import compare_large
from latent_ae.evaluation.perceptual import PerceptualDistance
from latent_ae.inference.memory import amount, available_bytes
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import DecoderSide, EncoderSide, Format, Side
from latent_ae.inference.timing import Pace, duration, measure_pace
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import AnyAutoencoder, factor_of, latent_channels
from latent_ae.models.encode_decode import inference

LITTLE = 4 * 1024 * 1024
"""pixels that are measured without a forecast"""
_LOOKED_AT, _LOADED = 200, 8
"""images whose sizes stand for all, evenly spread: by their headers, or where these are not known, as they are"""
_PROBE = 128
"""pixels a side of the image that is timed"""
_STRUCTURE = 20
"""float32 copies of an image at once in torchmetrics' SSIM"""
_FLOAT = 4
"""bytes"""
_LONG = 600
"""seconds after which it is said how to shorten them"""
_SHORTER = "--evaluation.size 512 takes less, and fewer images do (--evaluation.max_images, --evaluation.latent_images)"


class Work(NamedTuple):
    """Images of a part that are measured."""

    images: int
    pixels: int
    """of all together, by estimate"""
    largest: Size
    """(height, width) of the largest that was looked at"""

    @classmethod
    def of(cls, source: ImageSource, limit: int | None, size: int | Size | None) -> "Work":
        """`limit` images of a source (None: all), brought to `size` if it is given."""
        count = len(source) if limit is None else min(limit, len(source))
        sizes = list(_sizes(source, count)) if size is None else [size_of(size)]
        areas = [height * width for height, width in sizes]
        if not areas:
            return cls(0, 0, (0, 0))
        return cls(count, sum(areas) * count // len(areas), sizes[areas.index(max(areas))])


def _sizes(source: ImageSource, count: int) -> Iterator[Size]:
    looked_at = min(count, _LOOKED_AT if isinstance(source, SizedSource) else _LOADED)
    for place in range(looked_at):
        try:
            yield stored_size(source, place * count // looked_at * len(source) // count)
        except BrokenImage:
            continue


def forecast(
    model: AnyAutoencoder,
    networks: Networks,
    pixels: PixelFormat,
    evaluation: EvaluationConfig,
    *,
    measured: Work,
    encoded: Work | None = None,
    times: int = 1,
    processes: int = 1,
    kept_bytes: Callable[[], int] = lambda: 0,
) -> str | None:
    """One line about measuring images (as often as `times`), and encoding others, by processes that share a machine.

    Each process has `kept_bytes` of training images in the machine's memory meanwhile; it is asked for if need be. None
    for little work. Raises UserError if there is not enough memory.
    """
    works = [measured] if encoded is None else [measured, encoded]
    height, width = max((work.largest for work in works), key=math.prod)
    if height * width <= evaluation.pixels_at_once and sum(work.pixels for work in works) <= LITTLE:
        return None
    with inference(model):
        coder = Coder(model, evaluation.pixels_at_once)
        perceptual = None if isinstance(networks.perceptual, str) else networks.perceptual
        needed = _peak_bytes(coder, pixels, perceptual, evaluation, (height, width))
        available, beside = available_bytes(model.device), ""
        if model.device.type == "cpu":
            kept = kept_bytes()
            available = max(0, available // processes - kept)
            beside = f" beside {amount(kept)} of training images (data.keep_mib)" if kept else ""
        if needed > available:
            advice = "--evaluation.size 512, which measures images at 512 pixels"
            if not coder.in_strips(height, width):
                advice = f"--evaluation.pixels_at_once less than {evaluation.pixels_at_once}"
            each = f" in each of {processes} processes" if processes > 1 else ""
            raise UserError(
                f"measuring images of {width}x{height} pixels would take about {amount(needed)} of memory{each}, "
                f"{amount(available)} are free{beside}: give {advice}"
            )
        paces = _paces(model, pixels, perceptual)
    seconds = times * paces.measuring(measured)
    latents = ""
    if encoded is not None:
        seconds += paces.encoding(encoded)
        latents = f" and the latents of {encoded.images:,}"
    often = f" {times} times" if times > 1 else ""
    shorter = f"; {_SHORTER}" if seconds / processes > _LONG else ""
    return (
        f"measuring {_images(measured.images)}{often}{latents}, of up to {height * width / 1e6:.1f} megapixels: about "
        f"{amount(needed)} of memory and {duration(seconds / processes)}{shorter}"
    )


def _peak_bytes(
    coder: Coder,
    pixels: PixelFormat,
    perceptual: PerceptualDistance | None,
    evaluation: EvaluationConfig,
    size: Size,
) -> int:
    """Of a batch of images of a size: they, their reconstructions, and a side of the model or a measure."""
    height, width = size
    count = max(1, min(evaluation.batch_size, evaluation.pixels_at_once // (height * width)))
    places = count * height * width
    images = 2 * _FLOAT * pixels.channels * places
    if coder.in_strips(height, width):
        places, structure = 0 if perceptual is None else perceptual.window_pixels, 0
    else:
        structure = _STRUCTURE * pixels.channels
    compare = max(structure, 0 if perceptual is None else perceptual.floats_per_pixel) * _FLOAT * places
    return images + max(coder.predicted_bytes(count, height, width), compare)


class _Paces(NamedTuple):
    encode: Pace
    decode: Pace
    compare: float
    """seconds per pixel"""

    def encoding(self, work: Work) -> float:
        """Seconds to encode images, all of the mean size."""
        return work.images * self.encode.seconds(work.pixels // max(1, work.images))

    def measuring(self, work: Work) -> float:
        """Seconds to encode, decode and compare them."""
        decoding = work.images * self.decode.seconds(work.pixels // max(1, work.images))
        return self.encoding(work) + decoding + self.compare * work.pixels


def _paces(model: AnyAutoencoder, pixels: PixelFormat, perceptual: PerceptualDistance | None) -> _Paces:
    side = -(-_PROBE // factor_of(model)) * factor_of(model)
    probe, count = photo_like(pixels.channels, side).to(model.device), side * side
    modules = EncoderSide(model), DecoderSide(model)
    encoder, decoder = (Side(module, Format("fp32", channels_last=not module.as_written)) for module in modules)
    latents = encoder(probe)[:, : latent_channels(model)]
    seen = None if perceptual is None else perceptual.to(model.device)
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        compare_large(0.9 * probe, probe, pixels=pixels, perceptual=seen)
        taken.append(time.perf_counter() - start)
    encode, decode = (
        measure_pace(each, inputs, count, attended=None) for each, inputs in ((encoder, probe), (decoder, latents))
    )
    return _Paces(encode, decode, min(taken) / count)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
