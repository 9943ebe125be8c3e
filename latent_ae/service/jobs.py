"""A model of the server, and the jobs that the queue runs on it, an image each.

A job's key holds all that a batch must have in common: the model, the operation, the padded size, the options. Errors
of the model that a visitor can do something about become ServiceErrors here.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.inference import Codec, Decoded, DoesNotFit, prior_sampling
from latent_ae.inference.memory import amount, ran_out
from latent_ae.inference.timing import Pace
from latent_ae.io.latent_file.latents import Latents
from latent_ae.io.pixel_format import Array
from latent_ae.models.learned_prior import DrawOptions, LearnedPrior
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.errors import BadLatents, BadRequest, ServiceError, TooLarge
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.queue import Job, Tick


class Speed:
    """The best speed of a side so far, so that a busy machine does not make it refuse more.

    Args:
        pace: by a measurement from before.
    """

    def __init__(self, pace: Pace) -> None:
        self._best = pace

    def seconds(self, pixels: int) -> float:
        """Best-case duration of work on an image of so many pixels."""
        return self._best.seconds(pixels)

    @contextmanager
    def measured(self, pixels: int, count: int) -> Iterator[None]:
        """Learn from the duration of the block, work on so many images of so many pixels, unless it raises."""
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self._best = self._best.times(min(1.0, taken / (count * self._best.seconds(pixels))))


class ServedModel:
    """A model that jobs are made for, with speeds that are measured here on a small image.

    Raises ValueError for a codec with another memory limit than the service's: it is the codec that applies it.
    """

    def __init__(self, info: ModelInfo, codec: Codec, limits: ServiceLimits, prior: LearnedPrior | None = None) -> None:
        if codec.memory_bytes != limits.memory_bytes:
            raise ValueError(f"expected a codec with memory_bytes={limits.memory_bytes}, got {codec.memory_bytes}")
        self.info, self.codec, self.prior = info, codec, prior
        self.encoding, self.decoding = map(Speed, codec.paces)

    def encode(self, image: Array, *, seed: int | None = None, logvar: bool = False, and_decode: bool = False) -> Job:
        """[H,W,C] => Latents of one image; with `and_decode` only if there is memory to decode them too."""
        size = self._padded(image.shape)

        def run(images: Sequence[Array], tick: Tick) -> list[Latents]:
            # Not before the queue: the first prediction of memory runs the model, on tensors without values.
            if and_decode:
                self.codec.require_room([size])
            return self.codec.encode(images, seed=seed, logvar=logvar, tick=tick)

        # A codec draws by the image's index in its batch: alone, a draw is the same whatever else is in the queue.
        alone = None if seed is None else object()
        job = self._job(("encode", size, logvar, and_decode, alone), size, run, image, self.encoding, _nonfinite_image)
        if not and_decode:
            return job
        return dataclasses.replace(job, seconds=job.seconds + self.decoding.seconds(job.pixels))

    def encode_vectors(self, images: Sequence[Array] | Tensor) -> list[Job]:
        """N images [H,W,C] in the data's units or [C,H,W] in [-1, 1] => N jobs, each gives raw latents [c,h,w] float32.

        These are the posterior's mode, or the vectors of the codes.
        """
        height, width = images.shape[-2:] if isinstance(images, Tensor) else images[0].shape[:2]

        def run(batch: Sequence[Tensor | Array], tick: Tick) -> list[Tensor]:
            # Levels become floats, four times as large, no earlier than here.
            to_tensor = self.codec.pixel_format.to_tensor
            floats = [each if isinstance(each, Tensor) else to_tensor(each) for each in batch]
            found = self.codec.encode_tensor(torch.stack(floats), tick=tick)
            if not found.isfinite().all():
                raise _nonfinite_image()
            return list(found)

        key, size = ("encode_vectors", height, width), self._padded((height, width))
        return [self._job(key, size, run, each, self.encoding, _nonfinite_image) for each in images]

    def decode(self, latents: Latents) -> list[Job]:
        """Latents of N images => N jobs, each of which gives a Decoded."""

        def run(batch: Sequence[Latents], tick: Tick) -> list[Decoded]:
            return self.codec.decode_measured(batch, tick=tick)

        height, width = (side * self.codec.factor for side in latents.grid)
        parts = [slice(i, i + 1) for i in range(latents.count)]
        images = [
            dataclasses.replace(latents, tensor=latents.tensor[part], logvar=None, sources=latents.sources[part])
            for part in parts
        ]
        key, size = ("decode", height, width), (height, width)
        return [self._job(key, size, run, each, self.decoding, _nonfinite_pixels) for each in images]

    def decode_vectors(self, vectors: Tensor) -> list[Job]:
        """[N,c,h,w] raw latents or codes' vectors => N jobs, each of which gives pixels [C,H,W] in [-1, 1]."""

        def run(batch: Sequence[Tensor], tick: Tick) -> list[Tensor]:
            return list(self.codec.decode_tensor(torch.stack(list(batch)), tick=tick))

        height, width = (side * self.codec.factor for side in vectors.shape[-2:])
        key, size = ("decode_vectors", height, width), (height, width)
        return [self._job(key, size, run, each, self.decoding, _nonfinite_pixels) for each in vectors]

    def draw(self, count: int, *, seed: int, options: DrawOptions, side: int, learned: bool = False) -> Job:
        """=> [count,c,h,w] raw latents or codes' vectors of square images, drawn from the normal or learned prior.

        Only the temperature has an effect on the normal one.
        """

        def run(_batch: Sequence[None], _tick: Tick) -> list[Tensor]:
            with _errors_for_visitors(), torch.inference_mode():
                if not learned:
                    size = {"height": side, "width": side}
                    temperature = 1.0 if options.temperature is None else options.temperature
                    drawn = prior_sampling.draw(self.codec, count, seed=seed, temperature=temperature, **size)
                    return [drawn.cpu()]
                assert self.prior is not None, "the caller checks that there is one"
                try:
                    drawn = prior_sampling.learned_draw(self.codec, self.prior, count, seed=seed, options=options)
                except UserError as error:  # a class that it does not know, an option that it does not have
                    raise BadRequest(str(error)) from error
                return [drawn.cpu()]

        return Job(("draw", object()), run, None, 0)

    def _padded(self, size: Sequence[int]) -> tuple[int, int]:
        factor = self.codec.factor
        return -(-size[0] // factor) * factor, -(-size[1] // factor) * factor

    def _job(  # noqa: PLR0917
        self,
        key: tuple[Any, ...],
        size: tuple[int, int],
        run: Callable[[Sequence[Any], Tick], Sequence[Any]],
        payload: Any,
        speed: Speed,
        nonfinite: Callable[[], ServiceError],
    ) -> Job:
        pixels = size[0] * size[1]

        def guarded(batch: Sequence[Any], tick: Tick) -> Sequence[Any]:
            with _errors_for_visitors(nonfinite), torch.inference_mode(), speed.measured(pixels, len(batch)):
                return run(batch, tick)

        return Job((self.info.id, *key), guarded, payload, pixels, speed.seconds(pixels))


@contextmanager
def _errors_for_visitors(nonfinite: Callable[[], ServiceError] | None = None) -> Iterator[None]:
    """Raise ServiceErrors for what the codec and the memory refuse.

    `nonfinite` makes the error for the codec's own: form and size were checked before, so its outputs are not finite.
    """
    try:
        yield
    except ServiceError:
        raise
    except DoesNotFit as error:
        smaller = "a smaller one" if error.largest is None else "one of {1}x{0} pixels".format(*error.largest)
        raise TooLarge(
            f"an image of this size would take about {amount(error.needed)} of memory, and "
            f"{amount(error.available)} are free: try {smaller}"
        ) from error
    except UserError as error:
        if nonfinite is None:
            raise
        raise nonfinite() from error
    except (RuntimeError, MemoryError) as error:
        if ran_out(error):
            raise TooLarge("the server's memory ran out for this image: try one of half as many pixels") from error
        raise


def _nonfinite_image() -> BadRequest:
    return BadRequest("the model gives values that are not finite for this image")


def _nonfinite_pixels() -> BadLatents:
    return BadLatents("the model gives values that are not finite for these latents: they are too large")
