"""A model of the list and what is asked of it, an image at a time: works that the worker may put together.

A work's key holds all that its batch must have in common: the model, what is done, the padded size, the options. What
goes wrong at the model and is the visitor's to mend becomes a ServiceError here.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.inference import Codec, Decoded, DoesNotFit, prior_sampling
from latent_ae.inference.memory import amount, ran_out
from latent_ae.io.image import Pixels, to_tensor
from latent_ae.io.latent_file.latents import Latents
from latent_ae.models import latent_space as space
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.service.errors import BadLatents, BadRequest, ServiceError, TooLarge
from latent_ae.service.pace import Pace
from latent_ae.service.results import ModelInfo
from latent_ae.service.worker import Tick, Work


@dataclass(frozen=True)
class Hosted:
    """A model that works are made for."""

    info: ModelInfo
    codec: Codec
    encoding: Pace
    decoding: Pace
    prior: HierarchicalPrior | None = None
    """learned, of its latents"""

    @classmethod
    def of(
        cls, info: ModelInfo, codec: Codec, memory_bytes: int | None, prior: HierarchicalPrior | None = None
    ) -> "Hosted":
        """With the paces of a small picture, which is encoded and decoded here.

        Raises ValueError for a codec of another `memory_bytes`, as it is the codec that holds this limit.
        """
        if codec.memory_bytes != memory_bytes:
            raise ValueError(
                f"expected a codec that may take {memory_bytes} bytes, got {codec.memory_bytes}: give both the same"
            )
        encoding, decoding = map(Pace, codec.seconds_per_pixel())
        return cls(info, codec, encoding, decoding, prior)

    def encode(self, image: Pixels, *, seed: int | None = None, logvar: bool = False, and_decode: bool = False) -> Work:
        """[H,W,C] uint8 => Latents of one image; with `and_decode` only if there is memory to decode them too."""
        height, width = (-(-side // self.codec.factor) * self.codec.factor for side in image.shape[:2])

        def run(images: Sequence[Pixels], tick: Tick) -> list[Latents]:
            # Here and not before the queue: a prediction may run the model, if without its numbers.
            if and_decode:
                self.codec.require_room([(height, width)])
            with _nonfinite(_not_finite_image()), self.encoding.timed(len(images) * height * width):
                return self.codec.encode(images, seed=seed, logvar=logvar, tick=tick)

        seconds = self.encoding.seconds(height * width) + and_decode * self.decoding.seconds(height * width)
        # A codec draws by an image's place in its batch: alone, a draw is the same whoever else is there.
        alone = None if seed is None else object()
        return self._work(("encode", height, width, logvar, and_decode, alone), run, image, height * width, seconds)

    def encode_vectors(self, images: Sequence[Pixels] | Tensor) -> list[Work]:
        """N images [H,W,C] uint8 or [C,H,W] in [-1, 1] => N works, each of which gives [c,h,w] float32 as `vectors`."""
        size = images.shape[-2:] if isinstance(images, Tensor) else images[0].shape[:2]
        height, width = (-(-side // self.codec.factor) * self.codec.factor for side in size)

        def run(batch: Sequence[Tensor | Pixels], tick: Tick) -> list[Tensor]:
            # Levels become floats, four times as large, no earlier than this.
            floats = [each if isinstance(each, Tensor) else to_tensor(each) for each in batch]
            with self.encoding.timed(len(batch) * height * width):
                found = self.codec.encode_tensor(torch.stack(floats), tick=tick)
            if not found.isfinite().all():
                raise _not_finite_image()
            return list(found)

        key, seconds = ("encode_vectors", *size), self.encoding.seconds(height * width)
        return [self._work(key, run, each, height * width, seconds) for each in images]

    def decode(self, latents: Latents) -> list[Work]:
        """Latents of N images => N works, each of which gives a Decoded."""
        height, width = (side * self.codec.factor for side in latents.grid)

        def run(batch: Sequence[Latents], tick: Tick) -> list[Decoded]:
            with _nonfinite(_too_large_values()), self.decoding.timed(len(batch) * height * width):
                return self.codec.decode_measured(batch, tick=tick)

        images = [_one(latents, i) for i in range(latents.count)]
        seconds = self.decoding.seconds(height * width)
        return [self._work(("decode", height, width), run, image, height * width, seconds) for image in images]

    def vectors(self, latents: Latents) -> Work:
        """Latents of one image => [c,h,w] float32 that `decode_vectors` takes."""

        def run(batch: Sequence[Latents], tick: Tick) -> list[Tensor]:  # noqa: ARG001 - it is done at once
            return [self.codec.vectors(each)[0].cpu() for each in batch]

        return self._work(("vectors",), run, latents, 0)

    def decode_vectors(self, vectors: Tensor) -> list[Work]:
        """[N,c,h,w] raw latents or codes' vectors => N works, each of which gives [C,H,W] in [-1, 1]."""
        height, width = (side * self.codec.factor for side in vectors.shape[-2:])

        def run(batch: Sequence[Tensor], tick: Tick) -> list[Tensor]:
            with _nonfinite(_too_large_values()), self.decoding.timed(len(batch) * height * width):
                return list(self.codec.decode_tensor(torch.stack(list(batch)), tick=tick))

        key, seconds = ("decode_vectors", height, width), self.decoding.seconds(height * width)
        return [self._work(key, run, each, height * width, seconds) for each in vectors]

    def draw(self, count: int, *, seed: int, temperature: float, side: int, learned: bool = False) -> Work:
        """=> [count,c,h,w] raw latents or codes' vectors of square images, drawn from the normal or learned prior."""

        def run(batch: Sequence[None], tick: Tick) -> list[Tensor]:  # noqa: ARG001 - it is done at once
            how: dict[str, Any] = {"seed": seed, "temperature": temperature}
            if learned:
                assert self.prior is not None, "asked for without one"
                drawn = space.hierarchy_draw(self.prior, count, **how)
            else:
                drawn = prior_sampling.draw(self.codec, count, **how, height=side, width=side)
            return [drawn.cpu()] * len(batch)

        return self._work(("draw", object()), run, None, 0)

    def _work(
        self, key: tuple[Any, ...], run: Callable[..., Sequence[Any]], payload: Any, pixels: int, seconds: float = 0.0
    ) -> Work:
        return Work((self.info.id, *key), _at_the_model(run), payload, pixels, seconds)


def _at_the_model(run: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
    """Without gradients, and with errors that a visitor understands where memory is short."""

    @functools.wraps(run)
    def guarded(batch: Sequence[Any], tick: Tick) -> Sequence[Any]:
        try:
            with torch.inference_mode():
                return run(batch, tick)
        except DoesNotFit as error:
            raise TooLarge(
                f"an image of this size would take about {amount(error.needed)} of memory, and "
                f"{amount(error.available)} are there for it: try a smaller one"
            ) from error
        except (RuntimeError, MemoryError) as error:
            if ran_out(error):
                raise TooLarge("the server's memory ran out over this image: try a smaller one") from error
            raise

    return guarded


@contextmanager
def _nonfinite(told: ServiceError) -> Iterator[None]:
    """Form and size were checked before: what a codec can still find is that its outputs are not finite."""
    try:
        yield
    except (DoesNotFit, ServiceError):  # the latter from the tick
        raise
    except UserError as error:
        raise told from error


def _not_finite_image() -> BadRequest:
    return BadRequest("the model gives values that are not finite for this image")


def _too_large_values() -> BadLatents:
    return BadLatents("the model gives values that are not finite for these latents: they are too large")


def _one(latents: Latents, index: int) -> Latents:
    part = slice(index, index + 1)
    return dataclasses.replace(latents, tensor=latents.tensor[part], logvar=None, sources=latents.sources[part])
